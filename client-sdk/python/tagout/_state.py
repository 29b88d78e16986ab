"""How a guard stands at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from tagout._stopped import TagoutStopped


@dataclass(frozen=True)
class State:
    agent: str
    #: Why calls may not begin; `None` while they may.
    stopped: TagoutStopped | None
    #: For how many seconds calls may begin if nothing else arrives.
    left: float
    #: For how many seconds the client's newest lease is still good, whoever is denied.
    lease_left: float
    #: The size of the log that it was read from.
    log_size: int
    #: Classes of essential calls that may begin, which a drain or a restriction leaves.
    essential: list[str]
    #: What people allow per minute, all instances of the agent together; `None` where they set no limit.
    calls_per_minute: int | None
    tokens_per_minute: int | None
    #: What of that this instance may use.
    share_of_calls: int | None
    share_of_tokens: int | None
    #: People have isolated the agent: for what cuts its network, until this is false again.
    isolated: bool
    calls_under_way: int

    @property
    def enabled(self) -> bool:
        return self.stopped is None
