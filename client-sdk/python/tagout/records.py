"""Records of model calls: one for each call that goes through `install()`, also for those that are refused, cut or fail.

``tagout.install(records=…)`` takes a path, `JsonLines`, `Spans`, or anything that can be called with a `Record`. Names are those
of OpenTelemetry's GenAI semantic conventions v0.1.0, and ``tagout.…`` for what they have no name for; the README lists them.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import gmtime, strftime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

Value = str | int | float | bool | list[str]
#: Gives the topics of a request's body.
Detector = Callable[[bytes], Iterable[str]]

#: Longer bodies are hashed, but neither read nor kept nor shown to a detector; the record says so.
PROMPT_MAX = 4 * 1024 * 1024
#: Longer names and values are cut, in characters.
TEXT_MAX = 256
#: More topics, and more attributes of an agent, are left out.
NAMES_MAX = 32


@dataclass(frozen=True)
class Record:
    """One model call, when it is over. It is made anew for each call, and whoever takes it may keep it."""

    #: When the call began, in nanoseconds since 1970, UTC.
    began_ns: int
    #: How long it took, in nanoseconds.
    duration_ns: int
    #: What is known of it, by name.
    attributes: dict[str, Value]
    #: The request's body, for detectors. Nobody stores it unless asked; it is not in this object's `repr`.
    prompt: bytes | None = field(default=None, repr=False)

    @property
    def time(self) -> str:
        """When the call began, by RFC 3339: ``2026-11-28T22:21:26.123Z``."""
        seconds, ns = divmod(self.began_ns, 1_000_000_000)
        return f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(seconds))}.{ns // 1_000_000:03}Z"


def failures() -> int:
    """How many times in this process a record was not taken whole: it could not be written, or a detector or callable raised.

    The first failure after an `install()` is logged, too. No failure touches the call.
    """
    return _failures


class _Taker:
    """What takes records can do with a prompt: have its topics detected, and store it if asked."""

    def __init__(self, detector: Detector | None, prompts: bool) -> None:
        self._detector, self._prompts = detector, prompts

    def __call__(self, record: Record) -> None:
        attributes: dict[str, Value] = dict(record.attributes)
        failed: BaseException | None = None
        if record.prompt is not None:
            if self._prompts:
                attributes.update(_stored(record.prompt))
            if self._detector is not None:
                try:
                    found = self._detector(record.prompt)
                    topics = [found] if isinstance(found, str) else itertools.islice(found, NAMES_MAX)
                    attributes["tagout.topics"] = [text(topic) for topic in topics]
                except BaseException as error:
                    failed = error
        self._take(record, attributes)
        if failed is not None:
            raise failed

    def _take(self, record: Record, attributes: dict[str, Value]) -> None:
        raise NotImplementedError


class JsonLines(_Taker):
    """Appends each record to a file, as one line of JSON in ASCII, in one write.

    Several processes can share the file, on a local file system; it is made with mode 0600. It is opened anew for each record,
    so it can be moved away for rotation at any time. Raises `OSError` at once if it cannot be opened.

    With `prompts`, the request's body is stored as ``tagout.prompt``, or ``tagout.prompt.base64`` if it is no UTF-8. A
    `detector` takes the request's body and gives topics, which are stored as ``tagout.topics``; it holds up the call's end, and
    the model calls that it makes itself are guarded, but not recorded.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, detector: Detector | None = None, prompts: bool = False
    ) -> None:
        super().__init__(detector, prompts)
        self._path = os.path.abspath(path)
        self._torn = False
        os.close(self._open())

    def _open(self) -> int:
        # What is no file, such as a pipe that nobody reads, shall hold up nobody.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        return os.open(self._path, flags, 0o600)

    def _take(self, record: Record, attributes: dict[str, Value]) -> None:
        line = json.dumps({"time": record.time, **attributes}, separators=(",", ":")).encode("ascii") + b"\n"
        if self._torn:
            line = b"\n" + line  # Of a line that did not fit, the beginning is there.
        file = self._open()
        try:
            written = os.write(file, line)
        finally:
            os.close(file)
        self._torn = written < len(line)
        if self._torn:
            raise OSError(f"only {written} of a record's {len(line)} bytes could be written to {self._path}")


class Spans(_Taker):
    """Makes an OpenTelemetry span of each record, below the span in which the call began, from its beginning to its end.

    It takes `opentelemetry-api`. Without `tracer_provider` it uses the global one. `detector` and `prompts` are as with
    `JsonLines`. A span is made when its call is over, so no other span is below it.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        *,
        detector: Detector | None = None,
        prompts: bool = False,
    ) -> None:
        super().__init__(detector, prompts)
        from opentelemetry import trace

        self._trace = trace
        self._tracer = trace.get_tracer("tagout", tracer_provider=tracer_provider)

    def _take(self, record: Record, attributes: dict[str, Value]) -> None:
        names = (attributes.get("gen_ai.operation.name"), attributes.get("gen_ai.request.model"))
        span = self._tracer.start_span(
            " ".join(str(name) for name in names if name),
            kind=self._trace.SpanKind.CLIENT,
            attributes=attributes,
            start_time=record.began_ns,
        )
        if "error.type" in attributes:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(record.began_ns + record.duration_ns)


def text(value: object) -> str:
    """What a record may hold as a name or a value: not too long, and good as UTF-8."""
    return str(value)[:TEXT_MAX].encode("utf-8", "replace").decode()


def _stored(prompt: bytes) -> dict[str, Value]:
    try:
        return {"tagout.prompt": prompt.decode("utf-8")}
    except UnicodeDecodeError:
        return {"tagout.prompt.base64": base64.b64encode(prompt).decode()}


_failures = 0
_counting = itertools.count(1)


def count_failure() -> None:
    global _failures
    _failures = next(_counting)
