"""What is noted of a call while it is under way, and the record that it gives when it is over."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from itertools import islice
from typing import TYPE_CHECKING

from tagout import _watch
from tagout._install import conventions
from tagout._stopped import TagoutStopped
from tagout.records import NAMES_MAX, PROMPT_MAX, Record, Value, count_failure, text

if TYPE_CHECKING:
    from tagout._install.installed import Actor
    from tagout._native import Call

Take = Callable[[Record], object]

_log = logging.getLogger("tagout")
# In what takes records: its own calls are not recorded, or there would be no end of it.
_taking: ContextVar[bool] = ContextVar("tagout_taking", default=False)


class Streamed:
    """Stands for a body that is made while it is sent, or that nobody has seen."""


#: Gives a request's body, as far as it is known: once, when the call is over.
Body = Callable[[], "bytes | Streamed | None"]


class Recorder:
    """What takes the records of an `install()`. Nothing that goes wrong in it reaches a call."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._logged = False

    def begin(self, actor: Actor, host: str, port: int, target: str, method: str, body: Body) -> Recording | None:
        return None if _taking.get() else Recording(self, actor, host, port, target, method, body)

    def take(self, record: Record) -> None:
        _taking.set(True)
        try:
            self._take(record)
        except KeyboardInterrupt:
            raise
        except BaseException:
            # Also what is no `Exception`: a panic of Rust's, a CancelledError that cancels nothing here.
            self.failed()

    def failed(self) -> None:
        """Counts the error that is being handled, and logs the first one."""
        count_failure()
        if not self._logged:
            self._logged = True
            with suppress(Exception):
                _log.exception("a record of a model call was not taken whole; more of this is only counted")


class Recording:
    """One call's record while it is under way."""

    def __init__(
        self, recorder: Recorder, actor: Actor, host: str, port: int, target: str, method: str, body: Body
    ) -> None:
        self._began_ns, self._began = time.time_ns(), time.perf_counter_ns()
        self._recorder, self._actor = recorder, actor
        self._place, self._method = (host, port, target.partition("?")[0]), method
        # What takes the record runs in this copy, and sees context variables as they were here.
        self._context = copy_context()
        self._pid = os.getpid()
        # Taken by whoever ends it first: two threads may come at once.
        self._under_way = [True]
        self._status: int | None = None
        self._error: BaseException | None = None
        self._first: int | None = None
        self._length = 0
        self._body: Body | None = body
        self._sends: bytes | Streamed | None = None
        #: What it records, once that has begun.
        self.call: Call | None = None

    def sends(self, body: Body) -> None:
        """This is what is sent, at first; a redirect may be sent something else."""
        if self._body is not None:
            self._body = None
            try:
                self._sends = body()
            except KeyboardInterrupt:
                raise
            except BaseException:
                self._recorder.failed()

    def answered(self, status: int) -> None:
        self._status = status

    def received(self, length: int) -> None:
        """That many bytes more of the answer's body are here."""
        if self._first is None:
            self._first = time.perf_counter_ns()
        self._length += length

    def has_length(self, length: int) -> None:
        """The answer's body had that many bytes, whatever was counted of it."""
        self._length = length

    def failed(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error

    def has_failed(self, error: BaseException | None) -> None:
        """The answer fails by that, or by nothing, whatever was noted of those that led to it."""
        self._error = error

    def end(self, refused: TagoutStopped | None = None) -> None:
        """The call is over, or was refused. The first time counts; a forked child leaves it to its parent."""
        record = self._ended(refused)
        if record is not None:
            self._context.run(self._recorder.take, record)

    def __del__(self) -> None:
        # Nobody has read the answer to its end. Locks of whatever takes the record may be held by whom the garbage collector
        # interrupts here.
        with suppress(Exception):
            record = self._ended(None)
            if record is not None and sys.is_finalizing():
                self._context.run(self._recorder.take, record)  # No other thread runs any more.
            elif record is not None:
                _watch.start_thread(self._context.run, self._recorder.take, record)

    def _ended(self, refused: TagoutStopped | None) -> Record | None:
        if self._pid != os.getpid() or (self.call is None and refused is None):
            return None
        try:
            self._under_way.pop()
        except IndexError:
            return None
        duration_ns = time.perf_counter_ns() - self._began
        stopped = refused or (None if self.call is None else self.call.stopped)
        try:
            return self._record(duration_ns, stopped)
        except KeyboardInterrupt:
            raise
        except BaseException:
            self._recorder.failed()
            return None
        finally:
            self._body = self._sends = self._error = None

    def _record(self, duration_ns: int, stopped: TagoutStopped | None) -> Record:
        host, port, path = self._place
        attributes: dict[str, Value] = {}
        for name, value in islice(self._actor.attributes.items(), NAMES_MAX):
            attributes[text(name)] = text(value)
        attributes |= {
            "gen_ai.agent.id": text(self._actor.agent),
            "gen_ai.operation.name": conventions.operation(path),
            "gen_ai.provider.name": conventions.provider(host, path),
            "server.address": text(host),
            "server.port": port,
            "http.request.method": text(self._method),
            "url.path": text(path),
            "tagout.decision": "permitted" if stopped is None else "cut" if stopped.cut else "refused",
            "tagout.duration_ms": round(duration_ns / 1e6, 3),
        }
        prompt, about = self._prompt(path)
        attributes |= about
        attributes |= self._answer(stopped)
        if stopped is not None:
            attributes |= _stop(stopped)
        return Record(self._began_ns, duration_ns, attributes, prompt)

    def _prompt(self, path: str) -> tuple[bytes | None, dict[str, Value]]:
        body = self._sends if self._body is None else self._body()
        asked = conventions.model(path)
        about: dict[str, Value] = {} if asked is None else {"gen_ai.request.model": text(asked)}
        if isinstance(body, Streamed):
            return None, about | {"tagout.prompt.unread": "streamed"}
        if not body:
            return None, about
        about |= {"http.request.body.size": len(body), "tagout.prompt.sha256": hashlib.sha256(body).hexdigest()}
        if len(body) > PROMPT_MAX:
            return None, about | {"tagout.prompt.unread": "too large"}
        try:
            members = json.loads(body)
        except (ValueError, RecursionError):
            return body, about | {"tagout.prompt.unread": "not JSON"}
        if isinstance(members, dict):
            if isinstance(members.get("model"), str):
                about["gen_ai.request.model"] = text(members["model"])
            if members.get("stream") is True:
                about["gen_ai.request.stream"] = True
        return body, about

    def _answer(self, stopped: TagoutStopped | None) -> dict[str, Value]:
        about: dict[str, Value] = {}
        if self._status is not None:
            about |= {"http.response.status_code": self._status, "http.response.body.size": self._length}
        if self._first is not None:
            about["gen_ai.response.time_to_first_chunk"] = round((self._first - self._began) / 1e9, 6)
        if stopped is not None:
            about["error.type"] = "tagout.TagoutStopped"
        elif self._error is not None:
            about["error.type"] = _name(type(self._error))
        elif self._status is not None and self._status >= 400:
            about["error.type"] = str(self._status)
        return about


def _stop(stopped: TagoutStopped) -> dict[str, Value]:
    about = {
        "code": stopped.code,
        "kind": stopped.kind,
        "lock_id": stopped.lock_id,
        "scope": stopped.scope,
        "case": stopped.case,
    }
    return {f"tagout.stop.{name}": text(value) for name, value in about.items() if value is not None}


def _name(kind: type) -> str:
    return text(kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}")
