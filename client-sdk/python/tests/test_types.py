"""What type checkers are told is true."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import tagout

PACKAGE = Path(tagout.__file__).parent
SETTINGS = Path(__file__).parents[1] / "pyproject.toml"

# Each line's comment is what mypy says of its type.
USES = """
import asyncio
from collections.abc import AsyncIterator
import tagout

client = tagout.Client(nodes=["https://node:7470"], ca=b"", genesis="genesis.json", pinned="demo:00")
guard = client.guard("demo/agent_2")
reveal_type(guard.check())  # None
reveal_type(guard.essential("undo"))  # tagout._guard.EssentialGuard
reveal_type(guard.ready().stopped)  # tagout._stopped.TagoutStopped | None

@guard.protect
def double(x: int, *, times: int = 2) -> int:
    return x * times

@guard.protect
async def stream(prompt: str) -> AsyncIterator[str]:
    yield prompt

reveal_type(double(1, times=3))  # int
reveal_type(stream("x"))  # typing.AsyncIterator[str]

async def main() -> None:
    reveal_type(await guard.run(asyncio.sleep(0, "x")))  # str
    reveal_type(await guard.run_or_else(asyncio.sleep(0, "x"), lambda stop: stop.reason))  # str
    with guard as call:
        reveal_type(call.stopped)  # tagout._stopped.TagoutStopped | None
    async with guard as call:
        reveal_type(call)  # tagout._native.Call
"""


def mypy(*arguments: str) -> str:
    environment = {**os.environ, "MYPYPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-m", *arguments]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=PACKAGE.parent)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_package_is_strictly_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
    mypy("mypy", "--config-file", str(SETTINGS), "--strict", "--python-version", "3.10", "-p", "tagout")


def test_the_stubs_are_the_extensions(tmp_path: Path) -> None:
    mypy("mypy.stubtest", "tagout._native")


def test_users_see_the_types(tmp_path: Path) -> None:
    uses = tmp_path / "uses.py"
    uses.write_text(USES)
    said = [line.split('"')[1].replace("builtins.", "") for line in mypy("mypy", "--strict", str(uses)).splitlines() if '"' in line]
    assert said == [line.split("  # ")[1] for line in USES.splitlines() if "  # " in line]
