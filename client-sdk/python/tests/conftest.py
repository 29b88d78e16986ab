"""What the tests share: one deployment, one client, and a guard of each test's own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import tagout
from deployment import PATIENCE_S, Deployment


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path_factory.mktemp("deployment"))
    os.environ.update(deployment.settings)
    yield deployment
    deployment.end()


@pytest.fixture(scope="session")
def client(deployment: Deployment) -> tagout.Client:
    return tagout.Client()


@pytest.fixture
def guard(deployment: Deployment, client: tagout.Client) -> tagout.Guard:
    """A guard that lets calls begin."""
    guard = client.guard(next(deployment.agents))
    guard.ready(PATIENCE_S)
    return guard


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """As cargo says it, for `tests/run` to add up."""
    count = {kind: len(terminalreporter.getreports(kind)) for kind in ("passed", "failed", "error", "skipped")}
    failed = count["failed"] + count["error"]
    outcome = "FAILED" if failed else "ok"
    terminalreporter.write_line(
        f"test result: {outcome}. {count['passed']} passed; {failed} failed; {count['skipped']} ignored"
    )
