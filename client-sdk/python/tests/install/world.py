"""A process under `install()`, with models to call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

import tagout
from deployment import PATIENCE_S, Deployment, wait_for
from models import Models

# People are told 100 ms; on a busy machine a test may take longer.
CUT_WITHIN_S = 3.0


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    models = Models()
    yield models
    models.end()


@pytest.fixture
def installed(deployment: Deployment, client: tagout.Client) -> Iterator[tagout.Guard]:
    yield tagout.install(next(deployment.agents), client=client)
    tagout.uninstall()


class Work:
    """A call in a thread of its own, and how it ended."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self.result: object = None
        self.ended_at = 0.0
        self._call = call
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self.error = error
        self.ended_at = time.monotonic()

    def wait(self, for_s: float = PATIENCE_S) -> None:
        self.thread.join(for_s)
        assert not self.thread.is_alive(), "it still goes on"


class Cut:
    """Stops an agent while `work` is under way, and has how it ended: when, and by what error."""

    def __init__(self, deployment: Deployment, guard: tagout.Guard, work: Work) -> None:
        stopped_at: list[float] = []
        with_watch = guard.on_stop(lambda _stopped: stopped_at.append(time.monotonic()))
        deployment.stop(guard.agent)
        work.wait()
        wait_for(lambda: stopped_at, "the stop to be told")
        with_watch.close()
        self.after_s = max(0.0, work.ended_at - stopped_at[0])
        self.error = work.error
        self.stopped = tagout.find_stop(work.error)


def refused(call: Callable[[], object]) -> tuple[BaseException | None, float]:
    """What a call is refused by, and how long that took."""
    began = time.monotonic()
    try:
        call()
    except Exception as error:
        return error, time.monotonic() - began
    return None, time.monotonic() - began


class Agents:
    """The agents that a framework names, below the one that is installed."""

    def __init__(self, deployment: Deployment, installed: tagout.Guard) -> None:
        self._deployment, self._installed = deployment, installed

    def guard(self, name: str) -> tagout.Guard:
        with tagout.agent(f"{self._installed.agent}/{name}") as guard:
            return guard

    def stop(self, name: str) -> None:
        guard = self.guard(name)
        self._deployment.stop(guard.agent)
        wait_for(lambda: not guard.state().enabled, "the stop to arrive")

    def resume(self, name: str) -> None:
        guard = self.guard(name)
        self._deployment.resume(guard.agent)
        wait_for(lambda: guard.state().enabled, "the resume to arrive")


@pytest.fixture
def agents(deployment: Deployment, installed: tagout.Guard) -> Agents:
    return Agents(deployment, installed)
