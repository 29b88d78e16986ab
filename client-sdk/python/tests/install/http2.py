"""A model server that speaks HTTP/2 in the clear, for what many calls do that share one connection."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from contextlib import suppress

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from models import BETWEEN_WORDS_S, WORD


class Http2Models:
    """The path of a request ends with what it does: ``/stream…`` sends words without end, ``/silent…`` nothing."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.words: Counter[str] = Counter()
        self.resets: Counter[str] = Counter()
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def end(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        state.initiate_connection()
        connection.sendall(state.data_to_send())
        connection.settimeout(BETWEEN_WORDS_S)
        paths: dict[int, str] = {}
        streams: set[int] = set()
        while True:
            try:
                data = connection.recv(65536)
            except TimeoutError:
                data = None
            except OSError:
                return
            if data == b"":
                return
            for event in state.receive_data(data) if data else ():
                if isinstance(event, h2.events.RequestReceived):
                    headers = {str(name): str(value) for name, value in event.headers}
                    paths[event.stream_id] = headers[":path"]
                    self.requests[headers[":path"]] += 1
                elif isinstance(event, h2.events.StreamEnded) and "stream" in paths[event.stream_id]:
                    with suppress(h2.exceptions.StreamClosedError):  # It is reset already, by what came with this.
                        state.send_headers(event.stream_id, [(":status", "200")])
                        streams.add(event.stream_id)
                elif isinstance(event, h2.events.StreamReset):
                    self.resets[paths[event.stream_id]] += 1
                    streams.discard(event.stream_id)
            for stream in streams:
                if state.local_flow_control_window(stream) > len(WORD):
                    state.send_data(stream, WORD.encode())
                    self.words[paths[stream]] += 1
            try:
                connection.sendall(state.data_to_send())
            except OSError:
                return
            time.sleep(BETWEEN_WORDS_S)
