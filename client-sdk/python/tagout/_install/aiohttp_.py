"""aiohttp: a session's requests, and the stream that an answer's body comes by."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from tagout._install.flight import Flight, begin, current, no_flight
from tagout._install.patches import Function, Patches, module
from tagout._install.recording import Recording, Streamed

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


def patch_recorded(patches: Patches) -> None:
    if module("aiohttp") is None:
        return
    from aiohttp.streams import StreamReader

    patches.wrap(StreamReader, "feed_data", _feed_data)


def _request(original: Function) -> Function:
    async def _request(session: Any, method: str, str_or_url: Any, **named: Any) -> Any:
        try:
            url = session._build_url(str_or_url)
        except (TypeError, ValueError):
            return await original(session, method, str_or_url, **named)  # It says in its own words that this is no URL.
        body = partial(_given, session, named.get("json"), named.get("data"))
        flight = begin(url.host or "", url.port or 80, url.raw_path_qs, method, body)
        if flight is None:
            with no_flight():
                return await original(session, method, str_or_url, **named)
        response = None
        try:
            with flight.task():
                response = await original(session, method, str_or_url, **named)
                if flight.recording is not None:
                    flight.recording.answered(response.status)
                    flight.recording.has_failed(response.content.exception())
        except BaseException:
            # Cut when its head was here: nobody else knows of it.
            if response is not None:
                response.close()
            raise
        connection = response.connection
        if connection is None:
            _note_length(flight.recording, response)
            flight.close()  # All of it is here.
        else:
            _watch(flight, response, connection)
        return response

    return _request


def _given(session: Any, given: Any, data: Any) -> bytes | Streamed | None:
    """The body of a request that was not sent, as it would have been."""
    if given is not None:
        made = session._json_serialize(given)
        return made.encode() if isinstance(made, str) else made
    return _bytes(data.encode() if isinstance(data, str) else data)


def _sent(request: Any) -> bytes | Streamed | None:
    from aiohttp.payload import BytesPayload

    return _bytes(request.body._value if isinstance(request.body, BytesPayload) else request.body)


def _bytes(body: Any) -> bytes | Streamed | None:
    return bytes(body) if isinstance(body, (bytes, bytearray, memoryview)) else None if body is None else Streamed()


def _note_length(recording: Recording | None, response: Any) -> None:
    # As it came, before it was decompressed. Earlier versions know only what was counted afterwards.
    length = getattr(response.content, "total_raw_bytes", None)
    if recording is not None and length is not None:
        recording.has_length(length)


def _led(flight: Flight, request: Any) -> None:
    """The same for a call that is recorded: where all of its answer came at once, its status is not set before this returns."""

    def close() -> None:
        recording, response = flight.recording, request.response
        if recording is not None and response is not None and response.status is not None:
            recording.answered(response.status)
            _note_length(recording, response)
        flight.close()

    try:
        asyncio.get_running_loop().call_soon(close)
    except RuntimeError:
        close()


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
        _note_length(flight.recording, response)
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
            url, body = request.url, partial(_sent, request)
            flight = begin(url.host or "", url.port or 80, url.raw_path_qs, request.method, body)
            if flight is not None:
                connection.add_callback(flight.close if flight.recording is None else partial(_led, flight, request))
        elif flight is not None and flight.recording is not None:
            flight.recording.sends(partial(_sent, request))
        if flight is not None and connection.transport is not None:
            held = flight.holds(connection.transport.get_extra_info("socket"), also_woken=around is not None)
            if held is not None:
                connection.add_callback(held.close)  # Before it goes back to its pool.
        if connection.protocol is not None:
            setattr(connection.protocol, _FLIGHT, flight)
        return await original(request, connection, *args, **named)

    return send


def _flight(stream: Any) -> Flight | None:
    return getattr(getattr(stream, "_protocol", None), _FLIGHT, None)


def _set_exception(original: Function) -> Function:
    def set_exception(stream: Any, error: BaseException, *cause: Any) -> None:
        flight = _flight(stream)
        if flight is not None and flight.recording is not None:
            flight.recording.failed(error)
        stopped = None if flight is None else flight.stopped
        if stopped is None or isinstance(error, type(stopped)):
            original(stream, error, *cause)
        else:
            stopped.__cause__ = error
            original(stream, stopped)

    return set_exception


def _feed_eof(original: Function) -> Function:
    def feed_eof(stream: Any) -> None:
        flight = _flight(stream)
        stopped = None if flight is None else flight.stopped
        if stopped is not None:
            stream.set_exception(stopped)  # A socket that was shut looks like the end of the body.
        original(stream)

    return feed_eof


def _feed_data(original: Function) -> Function:
    def feed_data(stream: Any, data: Any, *size: Any) -> Any:
        flight = _flight(stream)
        if flight is not None and flight.recording is not None:
            flight.recording.received(len(data))
        return original(stream, data, *size)

    return feed_data
