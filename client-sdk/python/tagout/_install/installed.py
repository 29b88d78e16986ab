"""What is installed in this process, and who acts: whose calls those of a task or thread are."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from tagout._guard import Client, Guard
from tagout._install.endpoints import Endpoints
from tagout._install.patches import Patches
from tagout._install.recording import Recorder, Take
from tagout._stopped import TagoutStopped
from tagout.records import JsonLines

#: Where records of calls go: a file of JSON lines, or what takes them.
Records = str | os.PathLike[str] | Take


@dataclass(frozen=True)
class Actor:
    #: The agent by whose guard its calls are.
    agent: str
    #: What a program has named; the agents that frameworks name are below it.
    base: str
    #: What is known of it besides, by the names of OpenTelemetry's conventions, such as ``gen_ai.agent.name``.
    attributes: Mapping[str, str] = field(default_factory=dict)


# None: the agent that `install()` was given.
actor: ContextVar[Actor | None] = ContextVar("tagout_actor", default=None)


class Installed:
    """What `install()` was given, and the guards of the agents that were named since."""

    def __init__(
        self,
        agent: str,
        endpoints: Endpoints,
        client: Client | None,
        records: Records | None,
        tools: bool,
        ready_s: float,
    ) -> None:
        self.agent, self._given, self._ready_s = agent, (agent, endpoints, client, records, tools), ready_s
        self.recorder = None if records is None else Recorder(_taker(records))
        try:
            self._client = client or Client()
        except ValueError as error:
            raise ValueError(
                f"tagout is not configured: {error}; TAGOUT_PROFILE and TAGOUT_TOKEN_FILE say it, or give "
                "client=tagout.Client(…)"
            ) from error
        self.endpoints = replace(endpoints, nodes=tuple(self._client.nodes))
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._guards: dict[str, Guard] = {}
        self._adding = threading.Lock()

    def differs(
        self, agent: str, endpoints: Endpoints, client: Client | None, records: Records | None, tools: bool
    ) -> list[str]:
        """Which arguments are other ones than it was given."""
        names = "agent", "hosts, paths or predicate", "client", "records", "tools"
        asked = agent, endpoints, client, records, tools
        return [name for name, one, other in zip(names, self._given, asked, strict=True) if one != other]

    def actor(self) -> Actor:
        """Who acts in this task or thread."""
        return actor.get() or Actor(self.agent, self.agent)

    def knows(self, agent: str) -> bool:
        """Its guard is there, and nobody has to wait for it."""
        return self._pid == os.getpid() and agent in self._guards

    def guard_of(self, agent: str) -> Guard:
        if self._pid != os.getpid():
            self._begin()  # A forked child's guards are to be answered for anew.
        guard = self._guards.get(agent)
        if guard is not None:
            return guard
        with self._adding:
            if agent not in self._guards:
                guard = self._client.guard(agent)
                try:
                    guard.ready(self._ready_s)
                except TagoutStopped:
                    pass  # Its calls are refused, and say why.
                self._guards[agent] = guard
            return self._guards[agent]


def _taker(records: Records) -> Take:
    if isinstance(records, (str, os.PathLike)):
        return JsonLines(records)
    if not callable(records) or inspect.iscoroutinefunction(records):
        raise TypeError("records is a path, tagout.records.JsonLines or Spans, or a plain function that takes a record")
    return records


class _Installation:
    current: Installed | None = None
    patches: Patches | None = None


installation = _Installation()
