"""A deployment of the tests' own: `tagout dev`, whose node they ask and whose agent's scopes they share out."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 30.0
TAGOUT = os.environ["TAGOUT_BIN"]


class Deployment:
    """Its enrolled agent is ``demo/agent_2``; each test has scopes of its own below that."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.output = (folder / "dev.log").open("w")
        arguments = [TAGOUT, "dev", "--dir", str(folder / "dev"), "--listen", address]
        self.process = subprocess.Popen(arguments, stdout=self.output, stderr=self.output)
        self.node = f"https://{address}"
        self.token_file = self.dev / "tokens" / "demo.agent_2"
        self.agents = (f"demo/agent_2/{n}" for n in itertools.count())
        wait_for(self.is_up, "the node")

    @property
    def dev(self) -> Path:
        return self.folder / "dev"

    def is_up(self) -> bool:
        assert self.process.poll() is None, (self.folder / "dev.log").read_text()
        return self.token_file.exists() and "Ctrl-C ends it" in (self.folder / "dev.log").read_text()

    @property
    def settings(self) -> dict[str, str]:
        """What a client is made of, as environment."""
        return {"TAGOUT_PROFILE": str(self.dev / "profile.toml"), "TAGOUT_TOKEN_FILE": str(self.token_file)}

    def cli(self, *arguments: str, signers: tuple[str, ...] = ("alice",)) -> str:
        keys = [word for name in signers for word in ("--key", str(self.dev / "keys" / name))]
        profile = ["--profile", str(self.dev / "profile.toml")]
        ran = subprocess.run([TAGOUT, *arguments, *profile, *keys], capture_output=True, text=True, timeout=PATIENCE_S)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def stop(self, agent: str, *more: str, action: str = "stop", reason: str = "a test") -> None:
        self.cli(action, agent, "--reason", reason, *more)

    def resume(self, agent: str) -> None:
        self.cli("resume", agent, "--reason", "a test", signers=("alice", "bob"))

    def python(self, script: str, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        """Runs a program that finds the deployment by its environment, as users' programs do."""
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, *arguments]
        environment = {**os.environ, **self.settings, **settings}
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Meanwhile nobody answers."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        self.output.close()


def wait_for(reached: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < end, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.01)
