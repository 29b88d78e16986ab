"""aiohttp: a session's requests, and the stream that an answer's body comes by."""

from __future__ import annotations

import asyncio
from typing import Any

from tagout._install.flight import Flight, begin, current, no_flight
from tagout._install.patches import Function, Patches, module

_FLIGHT = "_tagout_flight"


def patch(patches: Patches) -> None:
    if module("aiohttp") is None:
        return
    from aiohttp import ClientRequest, ClientSession
    from aiohttp.streams import StreamReader

    patches.wrap(ClientSession, "_request", _request)
    patches.wrap(ClientRequest, "send", _send)
    patches.wrap(StreamReader, "set_exception", _set_exception)
    patches.wrap(StreamReader, "feed_eof", _feed_eof)


def _request(original: Function) -> Function:
    async def _request(session: Any, method: str, str_or_url: Any, **named: Any) -> Any:
        url = session._build_url(str_or_url)
        flight = begin(url.host or "", url.port or 80, url.raw_path_qs)
        if flight is None:
            with no_flight():
                return await original(session, method, str_or_url, **named)
        response = None
        try:
            with flight.task():
                response = await original(session, method, str_or_url, **named)
        except BaseException:
            # Cut when its head was here: nobody else knows of it.
            if response is not None:
                response.close()
            raise
        connection = response.connection
        if connection is None:
            flight.close()  # All of it is here.
        else:
            _watch(flight, response, connection)
        return response

    return _request


def _watch(flight: Flight, response: Any, connection: Any) -> None:
    """Until the connection goes back to its pool."""
    loop = asyncio.get_running_loop()
    protocol = connection.protocol

    def cut() -> None:
        stopped = flight.stopped
        if stopped is not None and response.connection is connection:
            response.content.set_exception(stopped)
            response.close()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(cut)
        except RuntimeError:
            pass  # The loop is closed.

    def over() -> None:
        flight.wake_no_more_by(wake)
        if getattr(protocol, _FLIGHT, None) is flight:
            setattr(protocol, _FLIGHT, None)
        flight.close()

    connection.add_callback(over)
    flight.wake_by(wake)


def _send(original: Function) -> Function:
    async def send(request: Any, connection: Any, *args: Any, **named: Any) -> Any:
        flight = around = current.get()
        if flight is None and request.method != "CONNECT":
            # A redirect or a middleware leads where `_request` has not looked.
            flight = begin(request.url.host or "", request.url.port or 80, request.url.raw_path_qs)
            if flight is not None:
                connection.add_callback(flight.close)
        if flight is not None and connection.transport is not None:
            held = flight.holds(connection.transport.get_extra_info("socket"), also_woken=around is not None)
            if held is not None:
                connection.add_callback(held.close)  # Before it goes back to its pool.
        if connection.protocol is not None:
            setattr(connection.protocol, _FLIGHT, flight)
        return await original(request, connection, *args, **named)

    return send


def _stopped(stream: Any) -> BaseException | None:
    flight = getattr(getattr(stream, "_protocol", None), _FLIGHT, None)
    return None if flight is None else flight.stopped


def _set_exception(original: Function) -> Function:
    def set_exception(stream: Any, error: BaseException, *cause: Any) -> None:
        stopped = _stopped(stream)
        if stopped is None or isinstance(error, type(stopped)):
            original(stream, error, *cause)
        else:
            stopped.__cause__ = error
            original(stream, stopped)

    return set_exception


def _feed_eof(original: Function) -> Function:
    def feed_eof(stream: Any) -> None:
        stopped = _stopped(stream)
        if stopped is not None:
            stream.set_exception(stopped)  # A socket that was shut looks like the end of the body.
        original(stream)

    return feed_eof
