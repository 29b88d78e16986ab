"""The examples, as a newcomer runs them."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployment import Deployment, wait_for
from models import Models
from world import models  # noqa: F401

EXAMPLES = Path(__file__).parents[2] / "examples"


class Example:
    """An example under way, with all that it has printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.printed = process, ""
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while letter := self.process.stdout.read(1):
            self.printed += letter

    def wait_for(self, text: str, times: int = 1) -> None:
        wait_for(lambda: self.printed.count(text) >= times or not self._reading.is_alive(), text)
        assert self.printed.count(text) >= times, self.printed


@contextmanager
def running(name: str, agent: str, model: str, deployment: Deployment, models: Models) -> Iterator[Example]:
    settings = {
        "TAGOUT_AGENT": agent,
        "MODEL": model,
        "OPENAI_BASE_URL": f"{models.url}/v1",
        "OPENAI_API_KEY": "none",
        "ANTHROPIC_BASE_URL": models.url,
        "ANTHROPIC_API_KEY": "none",
    }
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    process = deployment.python(code, str(EXAMPLES / name), "a story", **settings)
    assert process.stderr is not None
    threading.Thread(target=process.stderr.read, daemon=True).start()
    try:
        yield Example(process)
    finally:
        process.kill()
        process.wait()


def test_openai(deployment: Deployment, models: Models) -> None:
    agent = next(deployment.agents)
    with running("openai_agent.py", agent, "stream-example-1", deployment, models) as example:
        example.wait_for("word", 3)
        deployment.stop(agent)
        assert example.process.wait(30) == 1
    assert models.requests["stream-example-1"] == 1


def test_anthropic_stops_one_of_two_agents(deployment: Deployment, models: Models) -> None:
    agent = next(deployment.agents)
    with running("anthropic_agent.py", agent, "stream-example-3", deployment, models) as example:
        example.wait_for("writer: word", 3)
        example.wait_for("critic: word", 3)
        deployment.stop(f"{agent}/critic")
        example.wait_for("critic: [stopped: ")
        example.wait_for("writer: word", example.printed.count("writer: word") + 3)
    assert models.requests["stream-example-3"] == 2


def test_langgraph_goes_on_from_its_checkpoint(deployment: Deployment, models: Models) -> None:
    agent = next(deployment.agents)
    with running("langgraph_agent.py", agent, "stream-example-2", deployment, models) as example:
        example.wait_for("word", 3)
        deployment.stop(agent)
        example.wait_for("[stopped: ")
        words = example.printed.count("word")
        deployment.resume(agent)
        assert example.process.stdin is not None
        example.process.stdin.write("\n")
        example.process.stdin.flush()
        example.wait_for("word", words + 3)
    assert models.requests["stream-example-2"] == 2
