"""http.client, and with it urllib.request, requests and urllib3."""

from __future__ import annotations

import http.client
from typing import Any
from urllib.parse import urlsplit

from tagout._install.flight import Flight, begin
from tagout._install.patches import Function, Patches

_FLIGHT = "_tagout_flight"


def patch(patches: Patches) -> None:
    patches.wrap(http.client.HTTPConnection, "putrequest", _putrequest)
    patches.wrap(http.client.HTTPConnection, "send", _send)
    patches.wrap(http.client.HTTPConnection, "getresponse", _getresponse)
    patches.wrap(http.client.HTTPConnection, "close", _close)


def _putrequest(original: Function) -> Function:
    def putrequest(connection: Any, method: str, url: str, *args: Any, **named: Any) -> None:
        flight = begin(*_place(connection, url))
        try:
            original(connection, method, url, *args, **named)
        except BaseException:
            if flight is not None:
                flight.close()
            raise
        _end(connection)
        connection.__dict__[_FLIGHT] = flight

    return putrequest


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
        if response.fp is None:
            flight.close()  # It has no body.
        else:
            response.fp = _File(response.fp, flight)
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

    def __init__(self, file: Any, flight: Flight) -> None:
        self._file, self._flight = file, flight

    def read(self, *size: Any) -> Any:
        with self._flight:
            return self._file.read(*size)

    def read1(self, *size: Any) -> Any:
        with self._flight:
            return self._file.read1(*size)

    def readinto(self, buffer: Any) -> Any:
        with self._flight:
            return self._file.readinto(buffer)

    def readinto1(self, buffer: Any) -> Any:
        with self._flight:
            return self._file.readinto1(buffer)

    def readline(self, *size: Any) -> Any:
        with self._flight:
            return self._file.readline(*size)

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
