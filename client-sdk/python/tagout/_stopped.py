"""What is raised where an agent may not call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class TagoutStopped(RuntimeError):
    """A call may not begin, or was cut. Its text says who decided that, why, and what lifts it.

    Do not retry on it: it is an answer, not a failure. Wait with ``await guard.wait_enabled()``, or end.
    """

    #: The agent that may not call.
    agent: str
    #: Why, with all circumstances.
    reason: str
    #: The kind of reason as one word that does not change: ``stopped``, ``no_consent``, ``lapsed``, ``throttled``, …
    code: str
    #: What would lift it.
    lifted_by: str
    #: Nobody has decided it: the guard cannot know what people want, and it ends by itself.
    is_lapse: bool
    #: The call was under way; what it did until then stands. Otherwise it never began.
    cut: bool
    #: For ``throttled``: seconds until it fits; ``None`` if it never does.
    retry_after: float | None
    #: For ``stopped``: the id of the strongest lock, the SHA-256 of the document that placed it.
    lock_id: str | None
    #: ``halt``, ``drain``, ``pause``, ``isolate`` or ``restrict``.
    kind: str | None
    #: What the lock is on: the agent, or a scope above it.
    scope: str | None
    #: What people wrote on the lock's tag.
    tag: str | None
    #: Who signed it.
    by: tuple[str, ...]
    #: The number of a ticket or an incident.
    case: str | None
    #: When it was placed, in UTC.
    since: datetime | None
    #: It is released, and waits for its start.
    released: bool

    def __init__(
        self,
        message: str = "",
        *,
        agent: str = "",
        reason: str = "",
        code: str = "stopped",
        lifted_by: str = "",
        is_lapse: bool = False,
        cut: bool = False,
        retry_after: float | None = None,
        lock_id: str | None = None,
        kind: str | None = None,
        scope: str | None = None,
        tag: str | None = None,
        by: Sequence[str] = (),
        case: str | None = None,
        since_ms: int | None = None,
        released: bool = False,
    ) -> None:
        super().__init__(message)
        self.agent, self.reason, self.code, self.lifted_by = agent, reason, code, lifted_by
        self.is_lapse, self.cut, self.retry_after = is_lapse, cut, retry_after
        self.lock_id, self.kind, self.scope, self.tag = lock_id, kind, scope, tag
        self.by, self.case, self.released = tuple(by), case, released
        self.since = None if since_ms is None else _EPOCH + timedelta(milliseconds=since_ms)


def find_stop(error: BaseException | None) -> TagoutStopped | None:
    """The `TagoutStopped` that an error of a framework comes from, if it does.

    It looks at the error itself, its causes and contexts, the members of exception groups, and what other errors carry as
    their arguments. An error that is raised while a stop is handled has that stop as its context, so ask where nothing is
    handled: after the ``except`` block, not in it.
    """
    return find_newer_stop(error, None)


def find_newer_stop(error: BaseException | None, handled: BaseException | None) -> TagoutStopped | None:
    """The same without what was being handled already, and what that comes from."""
    seen: set[int] = {id(handled)}
    # Nearest first.
    waiting = [] if error is None else [error]
    while waiting:
        at = waiting.pop(0)
        if id(at) in seen:
            continue
        if isinstance(at, TagoutStopped):
            return at
        seen.add(id(at))
        waiting.extend(_carried(at))
    return None


def _carried(error: BaseException) -> Iterator[BaseException]:
    members = getattr(error, "exceptions", ())
    others = (error.__cause__, error.__context__, *(members if isinstance(members, (tuple, list)) else ()), *error.args)
    return (other for other in others if isinstance(other, BaseException))
