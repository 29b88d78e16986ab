"""http.client, and with it urllib.request, requests and urllib3."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from tagout._install.flight import Flight, begin
from tagout._install.patches import Function, Patches, module
from tagout._install.recording import Recording, Streamed

_FLIGHT = "_tagout_flight"
_BODY = "_tagout_body"


def patch(patches: Patches) -> None:
    patches.wrap(http.client.HTTPConnection, "putrequest", _putrequest)
    patches.wrap(http.client.HTTPConnection, "send", _send)
    patches.wrap(http.client.HTTPConnection, "getresponse", _getresponse)
    patches.wrap(http.client.HTTPConnection, "close", _close)


def patch_recorded(patches: Patches) -> None:
    patches.wrap(http.client.HTTPConnection, "request", _request("iso-8859-1"))
    if module("urllib3") is not None:
        from urllib3.connection import HTTPConnection

        patches.wrap(HTTPConnection, "request", _request("utf-8"))


def _request(charset: str) -> Callable[[Function], Function]:
    """Notes the body that `putrequest` is going to be followed by, encoded as this library does."""

    def wrapper(original: Function) -> Function:
        def request(connection: Any, method: str, url: str, body: Any = None, *args: Any, **named: Any) -> None:
            connection.__dict__[_BODY] = partial(_sent, body, charset)
            try:
                original(connection, method, url, body, *args, **named)
            finally:
                connection.__dict__.pop(_BODY, None)

        return request

    return wrapper


def _putrequest(original: Function) -> Function:
    def putrequest(connection: Any, method: str, url: str, *args: Any, **named: Any) -> None:
        flight = begin(*_place(connection, url), method, connection.__dict__.pop(_BODY, Streamed))
        try:
            original(connection, method, url, *args, **named)
        except BaseException:
            if flight is not None:
                flight.close()
            raise
        _end(connection)
        connection.__dict__[_FLIGHT] = flight

    return putrequest


def _sent(body: Any, charset: str) -> bytes | Streamed | None:
    if isinstance(body, str):
        return body.encode(charset)
    return bytes(body) if isinstance(body, (bytes, bytearray, memoryview)) else None if body is None else Streamed()


def _place(connection: Any, url: str) -> tuple[str, int, str]:
    """Host, port and path, also through a proxy: by a tunnel, or as a whole URL."""
    if url.startswith(("http://", "https://")):
        parts = urlsplit(url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80), parts.path
    if getattr(connection, "_tunnel_host", None):
        return connection._tunnel_host, connection._tunnel_port or 443, url
    return connection.host, connection.port or 80, url


def _send(original: Function) -> Function:
    def send(connection: Any, data: Any) -> None:
        flight: Flight | None = connection.__dict__.get(_FLIGHT)
        if flight is None:
            original(connection, data)
            return
        with flight:
            if connection.sock is None and connection.auto_open:
                # Its own tunnel is asked for by this method, too.
                connection.__dict__[_FLIGHT] = None
                try:
                    connection.connect()
                finally:
                    connection.__dict__[_FLIGHT] = flight
            if not flight.is_held:
                flight.holds(connection.sock)
            original(connection, data)

    return send


def _getresponse(original: Function) -> Function:
    def getresponse(connection: Any, *args: Any, **named: Any) -> Any:
        flight: Flight | None = connection.__dict__.get(_FLIGHT)
        if flight is None:
            return original(connection, *args, **named)
        # Off the connection, which closes itself where the answer's end is the connection's.
        connection.__dict__[_FLIGHT] = None
        with flight:
            response = original(connection, *args, **named)
            if flight.recording is not None:
                flight.recording.answered(response.status)
        if response.fp is None:
            flight.close()  # It has no body.
        else:
            recording = flight.recording
            length = None if recording is None else _Length(recording, response.chunked)
            response.fp = _File(response.fp, flight, length)
        return response

    return getresponse


def _close(original: Function) -> Function:
    def close(connection: Any) -> None:
        original(connection)
        _end(connection)

    return close


def _end(connection: Any) -> None:
    flight: Flight | None = connection.__dict__.pop(_FLIGHT, None)
    if flight is not None:
        flight.close()


class _File:
    """What an answer reads its body from; http.client closes it with the last byte."""

    def __init__(self, file: Any, flight: Flight, length: _Length | None) -> None:
        self._file, self._flight, self._length = file, flight, length

    def read(self, *size: Any) -> Any:
        with self._flight:
            return self._noted(self._file.read(*size))

    def read1(self, *size: Any) -> Any:
        with self._flight:
            return self._noted(self._file.read1(*size))

    def readinto(self, buffer: Any) -> Any:
        with self._flight:
            return self._noted_into(buffer, self._file.readinto(buffer))

    def readinto1(self, buffer: Any) -> Any:
        with self._flight:
            return self._noted_into(buffer, self._file.readinto1(buffer))

    def readline(self, *size: Any) -> Any:
        with self._flight:
            return self._noted(self._file.readline(*size))

    def _noted(self, data: bytes) -> bytes:
        if self._length is not None:
            self._length.note(data)
        return data

    def _noted_into(self, buffer: Any, size: int) -> int:
        if self._length is not None:
            self._length.note(bytes(memoryview(buffer)[: size or 0]))
        return size

    def peek(self, *size: Any) -> Any:
        with self._flight:
            return self._file.peek(*size)

    def close(self) -> None:
        try:
            self._file.close()
        finally:
            self._flight.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Any:
        return iter(self.readline, b"")


class _Length:
    """Counts an answer's body as it is read, without the frames of chunked coding (RFC 9112, section 7.1)."""

    def __init__(self, recording: Recording, chunked: bool) -> None:
        self._recording, self._framed = recording, bool(chunked)
        self._left = 0
        self._line = b""

    def note(self, data: bytes) -> None:
        if not self._framed:
            if data:
                self._recording.received(len(data))
            return
        while data:
            if self._left:
                self._recording.received(min(len(data), self._left))
                data, self._left = data[self._left :], max(0, self._left - len(data))
            else:
                line, end, data = data.partition(b"\n")
                self._line += line
                if end:
                    self._begin_chunk()

    def _begin_chunk(self) -> None:
        size, self._line = self._line.partition(b";")[0].strip(), b""
        # Nothing stands between a chunk and the next size; trailers, and what is no size, count nothing.
        if size and self._left == 0:
            try:
                self._left = int(size, 16)
            except ValueError:
                pass
