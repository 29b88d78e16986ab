"""A model server of the tests' own, compatible with OpenAI's and Anthropic's; what it counts is the judge.

The model's name says what it does: ``plain…`` answers at once, ``stream…`` sends words without end, ``silent…`` sends nothing,
``broken…`` hangs up in its answer, ``gzip…`` compresses it, ``status-429`` answers with that status, and ``tool…`` calls the tool
that its name has in it, or the first that it is given (not streamed, by chat completions or Gemini's API), and answers once it
has the result. What is asked at ``/to/…`` is sent to `PATH`.
"""

from __future__ import annotations

import gzip
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATH = "/v1/chat/completions"
WORD = "word "
BETWEEN_WORDS_S = 0.01


class Models:
    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: Counter[str] = Counter()
        self.words: Counter[str] = Counter()
        self.gone: Counter[str] = Counter()
        #: The bytes of each model's answers, and the bodies that were received.
        self.answered: Counter[str] = Counter()
        self.bodies: list[bytes] = []
        self.connections = 0
        self.ending = threading.Event()
        models = self

        class Handler(_Handler):
            counts = models

        self._scheme = "https" if tls else "http"
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.tls = tls
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def end(self) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # Many come at once.
    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        # In the connection's own thread, where a handshake holds up nobody.
        if self.tls is not None:
            request = self.tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    counts: Models
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.counts.connections += 1

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer({"data": [], "object": "list"})

    def do_POST(self) -> None:
        received = self._body()
        self.counts.bodies.append(received)
        if self.path.startswith("/to/"):
            self._redirect(PATH)
            return
        body = _members(received)
        model = body.get("model") or self.path.rpartition("/")[2].partition(":")[0]
        self.counts.requests[model] += 1
        try:
            if "silent" in model:
                self._wait_until_gone()
                self.counts.gone[model] += 1
                self.close_connection = True
            elif "gzip" in model:
                self._answer_compressed(gzip.compress(json.dumps(whole(self.path, model)).encode()), model)
            elif "broken" in model:
                self._break_off()
            elif body.get("stream") or "stream" in self.path:
                self._stream(model, events_of(self.path, model))
            elif model.startswith("tool") and not _has_result(body):
                self._answer(_tool_call(model, body["tools"]))
            else:
                status = int(model.rpartition("-")[2]) if model.startswith("status-") else 200
                self._answer(whole(self.path, model), status, model)
        except OSError:
            self.counts.gone[model] += 1
            self.close_connection = True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _wait_until_gone(self) -> None:
        self.connection.settimeout(0.2)
        while not self.counts.ending.is_set():
            try:
                if not self.connection.recv(1):
                    return
            except TimeoutError:
                continue

    def _redirect(self, path: str) -> None:
        self.send_response(307)
        self.send_header("Location", path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _break_off(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"not all of it")
        self.close_connection = True

    def _answer(self, body: dict[str, Any], status: int = 200, model: str = "") -> None:
        data = json.dumps(body).encode()
        self.counts.answered[model] += len(data)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answer_compressed(self, data: bytes, model: str) -> None:
        self.counts.answered[model] += len(data)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, model: str, events: tuple[list[bytes], Callable[[], bytes], list[bytes]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        first, word, last = events
        for event in first:
            self._chunk(event, model)
        words = 3 if "plain" in model else 10**9
        for _ in range(words):
            if self.counts.ending.is_set():
                return
            self._chunk(word(), model)
            self.counts.words[model] += 1
            time.sleep(BETWEEN_WORDS_S)
        for event in last:
            self._chunk(event, model)
        self._chunk(b"", model)

    def _chunk(self, data: bytes, model: str) -> None:
        self.counts.answered[model] += len(data)
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


def _members(body: bytes) -> dict[str, Any]:
    try:
        members = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return {}
    return members if isinstance(members, dict) else {}


def _event(data: dict[str, Any], name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


def whole(path: str, model: str) -> dict[str, Any]:
    if path.endswith("/messages"):
        return _message(model) | {"content": [{"type": "text", "text": WORD * 3}], "stop_reason": "end_turn"}
    if path.endswith("/responses"):
        return _response(model, "completed", WORD * 3)
    if ":generateContent" in path:
        return _gemini(finish="STOP")
    if path.endswith("/embeddings"):
        data = [{"object": "embedding", "index": 0, "embedding": [0.0, 1.0]}]
        return {"object": "list", "model": model, "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    message = {"role": "assistant", "content": WORD * 3}
    return _completion(model, "chat.completion", {"message": message, "finish_reason": "stop"})


def _has_result(body: dict[str, Any]) -> bool:
    parts = [part for said in body.get("contents", []) for part in said["parts"]]
    return any(said["role"] == "tool" for said in body.get("messages", [])) or any("functionResponse" in part for part in parts)


def _tool_call(model: str, given: list[dict[str, Any]]) -> dict[str, Any]:
    if "functionDeclarations" in given[0]:
        return _gemini({"functionCall": {"name": given[0]["functionDeclarations"][0]["name"], "args": {}}}, finish="STOP")
    tools = [tool["function"] for tool in given]
    tool = max((tool for tool in tools if tool["name"] in model), key=lambda tool: len(tool["name"]), default=tools[0])
    arguments = json.dumps(dict.fromkeys(tool["parameters"].get("required", []), "hello"))
    call = {"id": "t1", "type": "function", "function": {"name": tool["name"], "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return _completion(model, "chat.completion", {"message": message, "finish_reason": "tool_calls"})


def events_of(path: str, model: str) -> tuple[list[bytes], Callable[[], bytes], list[bytes]]:
    """What begins a stream, each word of it, and its end."""
    if path.endswith("/messages"):
        block = {"type": "text", "text": ""}
        first = [
            _event({"type": "message_start", "message": _message(model)}, "message_start"),
            _event({"type": "content_block_start", "index": 0, "content_block": block}, "content_block_start"),
        ]
        delta = {"type": "text_delta", "text": WORD}
        word = _event({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta")
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        last = [
            _event({"type": "content_block_stop", "index": 0}, "content_block_stop"),
            _event({"type": "message_delta", "delta": end, "usage": {"output_tokens": 3}}, "message_delta"),
            _event({"type": "message_stop"}, "message_stop"),
        ]
        return first, lambda: word, last
    if path.endswith("/responses"):
        return _response_events(model)
    if "streamGenerateContent" in path:
        word = _event(_gemini())
        return [], lambda: word, [_event(_gemini(finish="STOP"))]
    kind = "chat.completion.chunk"
    delta = {"role": "assistant", "content": WORD}
    word = _event(_completion(model, kind, {"delta": delta, "finish_reason": None}))
    last = _event(_completion(model, kind, {"delta": {}, "finish_reason": "stop"}))
    return [], lambda: word, [last, b"data: [DONE]\n\n"]


def _completion(model: str, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {"id": "c1", "object": kind, "created": 1, "model": model, "choices": [{"index": 0} | choice]}
    if kind == "chat.completion":
        body["usage"] = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
    return body


def _message(model: str) -> dict[str, Any]:
    usage = {"input_tokens": 1, "output_tokens": 1}
    common = {"id": "m1", "type": "message", "role": "assistant", "model": model, "content": []}
    return common | {"stop_reason": None, "stop_sequence": None, "usage": usage}


def _gemini(part: dict[str, Any] | None = None, finish: str | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [part or {"text": WORD}]}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
    return {"candidates": [candidate], "usageMetadata": usage}


def _output(text: str) -> dict[str, Any]:
    content = {"type": "output_text", "text": text, "annotations": []}
    return {"id": "o1", "type": "message", "role": "assistant", "status": "completed", "content": [content]}


def _response(model: str, status: str, text: str | None = None) -> dict[str, Any]:
    usage = {
        "input_tokens": 1,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 4,
    }
    return {
        "id": "r1",
        "object": "response",
        "created_at": 1,
        "model": model,
        "status": status,
        "output": [] if text is None else [_output(text)],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "usage": usage if status == "completed" else None,
    }


def _response_events(model: str) -> tuple[list[bytes], Callable[[], bytes], list[bytes]]:
    numbers: Iterator[int] = iter(range(10**9))

    def event(kind: str, **more: Any) -> bytes:
        return _event({"type": kind, "sequence_number": next(numbers)} | more, kind)

    part = {"type": "output_text", "text": "", "annotations": []}
    item = _output("") | {"content": [], "status": "in_progress"}
    place = {"output_index": 0, "item_id": "o1", "content_index": 0}
    first = [
        event("response.created", response=_response(model, "in_progress")),
        event("response.output_item.added", output_index=0, item=item),
        event("response.content_part.added", part=part, **place),
    ]
    text = WORD * 3
    last = [
        event("response.output_text.done", text=text, logprobs=[], **place),
        event("response.output_item.done", output_index=0, item=_output(text)),
        event("response.completed", response=_response(model, "completed", text)),
    ]
    return first, lambda: event("response.output_text.delta", delta=WORD, logprobs=[], **place), last
