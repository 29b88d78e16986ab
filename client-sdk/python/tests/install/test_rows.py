"""Every library's calls: refused before they are sent, cut in flight, not tried again.

`TAGOUT_ROWS` names other rows than those of `tests/run`, and `TAGOUT_FIGURES` a file that takes what was measured: see
`tests/matrix/run`.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tagout
from deployment import Deployment, wait_for
from models import Models
from tagout._install.endpoints import Endpoints
from world import CUT_WITHIN_S, Cut, Work, installed, models, refused  # noqa: F401

ROWS = os.environ.get("TAGOUT_ROWS", "httpx httpx2 aiohttp requests urllib openai anthropic langgraph").split()
WAYS = [
    (row, way) for row in ROWS for way in importlib.import_module(f"rows.{row}_").calls("http://127.0.0.1:9")
]
RETRYING = [(row, way) for row, way in WAYS if row in ("openai", "anthropic") and "stream" not in way]
_numbers = itertools.count()


class Figures:
    def __init__(self) -> None:
        self.of: dict[str, dict[str, object]] = {}

    def note(self, way: str, **figures: object) -> None:
        self.of.setdefault(way, {}).update(figures)


@pytest.fixture(scope="module")
def figures() -> Iterator[Figures]:
    figures = Figures()
    yield figures
    if "TAGOUT_FIGURES" in os.environ:
        Path(os.environ["TAGOUT_FIGURES"]).write_text(json.dumps(figures.of, indent=1))


@pytest.mark.parametrize(("row", "way"), WAYS)
def test_s3_a_call_is_cut_and_the_next_is_refused(
    row: str,
    way: str,
    deployment: Deployment,
    models: Models,
    installed: tagout.Guard,
    figures: Figures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call = importlib.import_module(f"rows.{row}_").calls(models.url)[way]
    number = next(_numbers)

    plain = f"plain-{number}"
    call(plain)
    assert models.requests[plain] == 1

    endless = f"{'stream' if 'stream' in way else 'silent'}-{number}"
    work = Work(lambda: call(endless))
    reached = _has_streamed(models, endless) if "stream" in way else lambda: models.requests[endless] == 1
    wait_for(lambda: reached() or work.error, "the call to be under way")
    cut = Cut(deployment, installed, work)
    assert cut.stopped is not None and cut.stopped.tag == "a test", repr(cut.error)
    assert cut.after_s < CUT_WITHIN_S
    assert models.requests[endless] == 1, "it was tried again"
    wait_for(lambda: models.gone[endless] == 1, "the server to see that its client is gone")
    assert installed.state().calls_under_way == 0

    blocked = f"blocked-{number}"
    began = time.monotonic()
    call_at = _note_attempts(monkeypatch)
    error, _ = refused(lambda: call(blocked))
    after_s = time.monotonic() - (call_at[0] if call_at else began)
    stopped = tagout.find_stop(error)
    assert stopped is not None and stopped.tag == "a test", repr(error)
    assert models.requests[blocked] == 0
    assert len(call_at) == 1, "it was tried again"
    assert after_s < CUT_WITHIN_S
    figures.note(
        f"{row} {way}",
        cut_ms=round(cut.after_s * 1000, 1),
        refused_ms=round(after_s * 1000, 1),
        reached=models.requests[blocked],
        tried=models.requests[endless],
        attempts=len(call_at),
        error=type(error).__name__,
    )


if RETRYING:

    @pytest.mark.parametrize(("row", "way"), RETRYING)
    def test_what_is_asked_instead_of_a_stopped_agent_is_tried_again(
        row: str, way: str, deployment: Deployment, models: Models, installed: tagout.Guard
    ) -> None:
        call = importlib.import_module(f"rows.{row}_").calls(models.url)[way]
        number = next(_numbers)
        deployment.stop(installed.agent)
        wait_for(lambda: not installed.state().enabled, "the stop to arrive")
        try:
            call(f"blocked-{number}")
        except tagout.TagoutStopped:
            with tagout.agent(next(deployment.agents)):
                error, _ = refused(lambda: call(f"status-{number}-500"))
        assert not isinstance(error, tagout.TagoutStopped) and "500" in str(error)
        assert models.requests[f"status-{number}-500"] == 3


def _note_attempts(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When a library came with a model call."""
    attempts: list[float] = []
    match = Endpoints.match

    def noting(endpoints: Endpoints, host: str, port: int, target: str) -> bool:
        is_one = match(endpoints, host, port, target)
        if is_one:
            attempts.append(time.monotonic())
        return is_one

    monkeypatch.setattr(Endpoints, "match", noting)
    return attempts


def _has_streamed(models: Models, model: str) -> Callable[[], bool]:
    return lambda: models.words[model] >= 5
