"""What the tests share: the packages as they are built, and one deployment of three nodes."""

import subprocess
import sys
from pathlib import Path

import pytest

from deployment import Deployment
from platforms import PLATFORMS

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))


@pytest.fixture(scope="session")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    subprocess.run([str(HERE.parent / "build"), str(folder)], check=True, stdout=subprocess.PIPE)
    return folder


@pytest.fixture(scope="session")
def deployment(tmp_path_factory):
    deployment = Deployment(tmp_path_factory.mktemp("deployment"))
    yield deployment
    deployment.end()


@pytest.fixture(params=PLATFORMS, ids=lambda platform: platform.name)
def platform(request, packages, tmp_path):
    return request.param(packages, tmp_path)


def pytest_terminal_summary(terminalreporter):
    """As cargo says it, for `tests/run` to add up."""
    count = {kind: len(terminalreporter.getreports(kind)) for kind in ("passed", "failed", "error", "skipped")}
    failed = count["failed"] + count["error"]
    outcome = "FAILED" if failed else "ok"
    terminalreporter.write_line(
        f"test result: {outcome}. {count['passed']} passed; {failed} failed; {count['skipped']} ignored"
    )
