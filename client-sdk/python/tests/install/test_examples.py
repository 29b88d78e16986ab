"""The examples, as a newcomer runs them. Those of other packages are tested with their adapters."""

from __future__ import annotations

import sys
from pathlib import Path

from deployment import Deployment, wait_for
from examples import running
from models import Models
from world import models  # noqa: F401


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


def test_mcp_cuts_a_tool_call(deployment: Deployment, models: Models, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    server = (sys.executable, str(Path(__file__).parents[1] / "adapters" / "mcp_server.py"), str(notes))
    with running("mcp_tools.py", next(deployment.agents), "tool-example-act", deployment, models, *server) as example:
        example.wait_for("word word word")
        assert notes.read_text() == "acted\n"
    agent = next(deployment.agents)
    with running("mcp_tools.py", agent, "tool-example-act_on", deployment, models, *server) as example:
        example.wait_for("[act_on]")
        wait_for(lambda: "acting" in notes.read_text(), "the tool to be under way")
        deployment.stop(agent)
        example.wait_for("[stopped: ")
        wait_for(lambda: "ended" in notes.read_text(), "the server to end it")
    assert models.requests["tool-example-act"] == 2 and models.requests["tool-example-act_on"] == 1
