"""httpx and httpx2: their connection pools, httpcore and httpcore2, where every request passes.

A connection of HTTP/1.1 belongs to one call at a time, and a cut shuts its socket. One of HTTP/2 is shared: a cut wakes who
waits for the one stream, and that stream is reset.
"""

from __future__ import annotations

import select
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial
from os import close, pipe, write
from types import SimpleNamespace
from typing import Any

from tagout._install.flight import Flight, begin, current, no_flight
from tagout._install.patches import Function, Patches, module
from tagout._install.recording import Streamed

_CANCEL = 8  # RFC 9113, section 7
_LOOK_S = 0.02
# What httpcore asks of a request to know how long sending may take.
_RESET = SimpleNamespace(extensions={"timeout": {"write": 1.0}})
_END = object()


def patch(patches: Patches) -> None:
    for name in ("httpcore", "httpcore2"):
        core = module(name)
        if core is None:
            continue
        patches.wrap(core.ConnectionPool, "handle_request", _pool)
        patches.wrap(core.AsyncConnectionPool, "handle_async_request", _async_pool)
        patches.wrap(core.HTTP11Connection, "_send_request_headers", _http11)
        patches.wrap(core.AsyncHTTP11Connection, "_send_request_headers", _async_http11)
        if module("h2") is None:
            continue
        patches.wrap(core.HTTP2Connection, "handle_request", _http2)
        patches.wrap(core.HTTP2Connection, "_send_request_headers", _send_headers)
        patches.wrap(core.HTTP2Connection, "_read_incoming_data", _read)
        patches.wrap(core.HTTP2Connection, "_response_closed", _closed)
        patches.wrap(core.AsyncHTTP2Connection, "_send_request_headers", _async_send_headers)
        patches.wrap(core.AsyncHTTP2Connection, "_response_closed", _async_closed)


def _begin(request: Any) -> Flight | None:
    url = request.url
    port = url.port or (443 if url.scheme in (b"https", b"wss") else 80)
    host, target = url.host.decode("ascii", "replace"), url.target.decode("ascii", "replace")
    return begin(host, port, target, request.method.decode("ascii", "replace"), partial(_sent, request))


def _sent(request: Any) -> bytes | Streamed:
    # As httpx's byte streams keep it, and httpcore's own.
    for name in ("_stream", "_content"):
        body = getattr(request.stream, name, None)
        if isinstance(body, bytes):
            return body
    return Streamed()


def _pool(original: Function) -> Function:
    def handle_request(pool: Any, request: Any) -> Any:
        flight = _begin(request)
        if flight is None:
            with no_flight():
                return original(pool, request)
        response = None
        try:
            with flight:
                response = original(pool, request)
                if flight.recording is not None:
                    flight.recording.answered(response.status)
        except BaseException:
            # Cut when its head was here: nobody else knows of it.
            if response is not None:
                with _in_name_of(flight), suppress(Exception):
                    response.close()
            raise
        response.stream = _Body(response.stream, flight)
        return response

    return handle_request


def _async_pool(original: Function) -> Function:
    async def handle_async_request(pool: Any, request: Any) -> Any:
        flight = _begin(request)
        if flight is None:
            with no_flight():
                return await original(pool, request)
        response = None
        try:
            with flight.task():
                response = await original(pool, request)
                if flight.recording is not None:
                    flight.recording.answered(response.status)
        except BaseException:
            if response is not None:
                with _in_name_of(flight), suppress(Exception):
                    await response.aclose()
            raise
        response.stream = _AsyncBody(response.stream, flight)
        return response

    return handle_async_request


class _Body:
    def __init__(self, stream: Any, flight: Flight) -> None:
        self._stream, self._flight = stream, flight

    def __iter__(self) -> Iterator[bytes]:
        parts, recording = iter(self._stream), self._flight.recording
        try:
            while True:
                with self._flight:
                    part = next(parts, _END)
                if part is _END:
                    break
                if recording is not None:
                    recording.received(len(part))  # type: ignore[arg-type]
                yield part  # type: ignore[misc]
        finally:
            # In this call's name: a stream of its is reset.
            with _in_name_of(self._flight):
                parts.close()
            self._flight.close()

    def close(self) -> None:
        try:
            with _in_name_of(self._flight):
                self._stream.close()
        finally:
            self._flight.close()


class _AsyncBody:
    def __init__(self, stream: Any, flight: Flight) -> None:
        self._stream, self._flight = stream, flight

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts, recording = self._stream.__aiter__(), self._flight.recording
        try:
            while True:
                with self._flight.task():
                    part = await anext(parts, _END)
                if part is _END:
                    break
                if recording is not None:
                    recording.received(len(part))  # type: ignore[arg-type]
                yield part  # type: ignore[misc]
        finally:
            try:
                with _in_name_of(self._flight):
                    await parts.aclose()
            finally:
                self._flight.close()

    async def aclose(self) -> None:
        try:
            with _in_name_of(self._flight):
                await self._stream.aclose()
        finally:
            self._flight.close()


class _in_name_of:
    def __init__(self, flight: Flight) -> None:
        self._flight = flight

    def __enter__(self) -> None:
        self._before = current.set(self._flight)

    def __exit__(self, *_error: object) -> None:
        with suppress(ValueError):  # A generator may be closed in another context than it was begun in.
            current.reset(self._before)


# A connection is a call's own from here on, and closed by whatever is raised. A proxy's tunnel may be shared later.
def _http11(original: Function) -> Function:
    def _send_request_headers(connection: Any, request: Any) -> None:
        flight = current.get()
        if flight is not None and request.method != b"CONNECT":
            flight.holds(connection._network_stream.get_extra_info("socket"))
        original(connection, request=request)

    return _send_request_headers


def _async_http11(original: Function) -> Function:
    async def _send_request_headers(connection: Any, request: Any) -> None:
        flight = current.get()
        if flight is not None and request.method != b"CONNECT":
            flight.holds(connection._network_stream.get_extra_info("socket"), also_woken=True)
        await original(connection, request=request)

    return _send_request_headers


def _http2(original: Function) -> Function:
    def handle_request(connection: Any, request: Any) -> Any:
        if not isinstance(connection._read_lock, _ReadLock):
            connection._read_lock = _ReadLock(connection._read_lock._lock)
        return original(connection, request)

    return handle_request


class _ReadLock:
    """The lock of who reads a shared connection, the same as before; who waits for it looks whether it was cut."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        flight = current.get()
        if flight is None:
            self._lock.acquire()
            return
        while not self._lock.acquire(timeout=_LOOK_S):
            flight.check()

    def __exit__(self, *_error: object) -> None:
        self._lock.release()


def _send_headers(original: Function) -> Function:
    def _send_request_headers(connection: Any, request: Any, stream_id: int) -> None:
        flight = current.get()
        if flight is not None:
            flight.check()  # It may have waited for its turn.
        original(connection, request=request, stream_id=stream_id)

    return _send_request_headers


def _async_send_headers(original: Function) -> Function:
    async def _send_request_headers(connection: Any, request: Any, stream_id: int) -> None:
        flight = current.get()
        if flight is not None:
            flight.check()
        await original(connection, request=request, stream_id=stream_id)

    return _send_request_headers


def _read(original: Function) -> Function:
    def _read_incoming_data(connection: Any, request: Any) -> Any:
        flight = current.get()
        if flight is not None and not _readable(connection._network_stream, request, flight):
            request = SimpleNamespace(extensions={"timeout": {"read": 0.001}})  # It has waited as long as it may.
        return original(connection, request)

    return _read_incoming_data


def _readable(stream: Any, request: Any, flight: Flight) -> bool:
    """Waits until there is something to read. A cut ends the wait here, before an error that all streams would share."""
    tls = stream.get_extra_info("ssl_object")
    connection = stream.get_extra_info("socket")
    if connection is None or (tls is not None and tls.pending()):
        return True
    timeout_s = request.extensions.get("timeout", {}).get("read")
    woken, waking = pipe()

    def wake() -> None:
        write(waking, b"\0")

    try:
        flight.wake_by(wake)
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(woken, select.POLLIN)
        events = poll.poll(None if timeout_s is None else timeout_s * 1000)
    finally:
        flight.wake_no_more_by(wake)
        close(woken)
        close(waking)
    flight.check()
    return bool(events)


def _is_cut() -> bool:
    flight = current.get()
    return flight is not None and flight.stopped is not None


def _closed(original: Function) -> Function:
    def _response_closed(connection: Any, stream_id: int) -> None:
        if _is_cut():
            # The server shall make no more of the stream, unless it has ended by itself.
            with suppress(Exception):
                # Who sends takes all that waits for it under this lock; what is put there meanwhile would be lost.
                with connection._write_lock:
                    connection._h2_state.reset_stream(stream_id, error_code=_CANCEL)
                connection._write_outgoing_data(_RESET)
        original(connection, stream_id=stream_id)

    return _response_closed


def _async_closed(original: Function) -> Function:
    async def _response_closed(connection: Any, stream_id: int) -> None:
        if _is_cut():
            with suppress(Exception):
                connection._h2_state.reset_stream(stream_id, error_code=_CANCEL)
                await connection._write_outgoing_data(_RESET)
        await original(connection, stream_id=stream_id)

    return _response_closed
