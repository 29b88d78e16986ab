"""Agents of Google's ADK, each an agent of Tagout's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.adk.agents import Agent, LlmAgent, ParallelAgent
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.apps import App
from google.adk.models import Gemini
from google.adk.runners import InMemoryRunner
from google.adk.tools.agent_tool import AgentTool
from google.genai import types

import tagout
from deployment import Deployment, wait_for
from examples import running
from models import Models
from tagout._install.acting import current_guard, current_installed
from tagout._install.installed import Actor
from tagout.adapters.google_adk import TagoutPlugin
from world import CUT_WITHIN_S, Agents, Cut, Work, agents, installed, models, refused  # noqa: F401


def agent(models: Models, name: str, model: str, *tools: Any, **more: Any) -> LlmAgent:
    local = {"api_key": "none", "http_options": types.HttpOptions(base_url=models.url)}
    return Agent(name=name, model=Gemini(model=model, client_kwargs=local), tools=list(tools), **more)


def run(root: Any, mode: StreamingMode = StreamingMode.NONE) -> list[str]:
    """The agents whose words came, one after the other."""

    async def events() -> list[str]:
        runner = InMemoryRunner(app=App(name="test", root_agent=root, plugins=[TagoutPlugin()]))
        session = await runner.session_service.create_session(app_name="test", user_id="one", session_id="a session")
        asked = types.Content(role="user", parts=[types.Part(text="hello")])
        authors, mine = [], current_guard().agent
        run = {"user_id": "one", "session_id": session.id, "run_config": RunConfig(streaming_mode=mode)}
        async for event in runner.run_async(new_message=asked, **run):
            assert current_guard().agent == mine, "who runs it acts as before"
            authors.append(event.author)
        return authors

    return asyncio.run(events())


def test_s3_one_agent_is_stopped_and_the_other_goes_on(models: Models, agents: Agents) -> None:
    writer, critic = agent(models, "writer", "plain-writer"), agent(models, "critic", "plain-critic")
    agents.stop("critic")
    error, _ = refused(lambda: run(critic))
    stopped = tagout.find_stop(error)
    assert stopped is not None and stopped.tag == "a test", repr(error)
    assert run(writer) == ["writer"]
    error, _ = refused(lambda: run(ParallelAgent(name="both", sub_agents=[writer, critic])))
    assert tagout.find_stop(error), repr(error)
    assert models.requests["plain-critic"] == 0


@pytest.mark.parametrize("mode", [StreamingMode.NONE, StreamingMode.SSE])
def test_s3_a_call_of_one_agent_is_cut_and_that_of_the_other_goes_on(
    mode: StreamingMode, deployment: Deployment, models: Models, agents: Agents
) -> None:
    kind, counts = ("silent", models.requests) if mode is StreamingMode.NONE else ("stream", models.words)
    writer = Work(lambda: run(agent(models, "writer", f"{kind}-writer"), mode))
    critic = Work(lambda: run(agent(models, "critic", f"{kind}-critic"), mode))
    wait_for(lambda: counts[f"{kind}-writer"] and counts[f"{kind}-critic"], "both to be under way")
    cut = Cut(deployment, agents.guard("critic"), critic)
    assert cut.stopped is not None and cut.stopped.cut, repr(cut.error)
    assert cut.after_s < CUT_WITHIN_S
    assert models.requests[f"{kind}-critic"] == 1, "it was tried again"
    assert writer.thread.is_alive()
    agents.stop("writer")
    writer.wait()
    assert tagout.find_stop(writer.error), repr(writer.error)


def test_s3_a_tool_of_an_agent_that_is_stopped_is_not_run(models: Models, agents: Agents) -> None:
    actors: list[Actor] = []

    def act() -> str:
        """Acts."""
        actors.append(current_installed().actor())
        return "done"

    assert run(agent(models, "writer", "tool-writer", act)) == ["writer"] * 3
    assert [actor.agent for actor in actors] == [agents.guard("writer").agent]
    assert actors[0].attributes == {"gen_ai.agent.name": "writer", "gen_ai.conversation.id": "a session"}

    def stop(**_: object) -> None:
        agents.stop("critic")

    error, _ = refused(lambda: run(agent(models, "critic", "tool-critic", act, after_model_callback=stop)))
    assert tagout.find_stop(error), repr(error)
    assert models.requests["tool-critic"] == len(actors) == 1


def test_s3_an_asynchronous_tool_is_cut(models: Models, agents: Agents) -> None:
    acted: list[str] = []

    async def act() -> str:
        """Acts on and on."""
        acted.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            acted.append("ended")
        return "done"

    work = Work(lambda: run(agent(models, "endless", "tool-endless", act)))
    wait_for(lambda: acted or work.error, "the tool to be under way")
    agents.stop("endless")
    work.wait()
    stopped = tagout.find_stop(work.error)
    assert stopped is not None and stopped.cut, repr(work.error)
    assert acted == ["began", "ended"]
    assert models.requests["tool-endless"] == 1


def test_s3_an_agent_in_a_tool_is_its_own(models: Models, agents: Agents) -> None:
    asked = agent(models, "asked", "plain-asked")
    assert "asking" in run(agent(models, "asking", "tool-asking-1", AgentTool(asked)))
    assert models.requests["plain-asked"] == 1
    agents.stop("asked")
    error, _ = refused(lambda: run(agent(models, "asking", "tool-asking-2", AgentTool(asked))))
    stopped = tagout.find_stop(error)
    assert stopped is not None and stopped.agent == agents.guard("asked").agent, repr(error)
    assert models.requests["plain-asked"] == 1


def test_example(deployment: Deployment, models: Models) -> None:
    agent = next(deployment.agents)
    with running("google_adk_agent.py", agent, "gemini-stream-example", deployment, models) as example:
        example.wait_for("word", 3)
        deployment.stop(f"{agent}/teller")
        assert example.process.wait(30) == 1
    assert models.requests["gemini-stream-example"] == 1
