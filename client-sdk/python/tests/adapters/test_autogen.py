"""AutoGen's agents, each an agent of Tagout's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import ModelInfo
from autogen_core.tools import FunctionTool, StaticWorkbench
from autogen_ext.models.openai import OpenAIChatCompletionClient

import tagout
from deployment import Deployment, wait_for
from examples import running
from models import Models
from tagout._install.acting import current_guard
from tagout.adapters.autogen import AssistantAgent, with_stops
from world import CUT_WITHIN_S, Agents, Cut, Work, agents, installed, models, refused  # noqa: F401

ABOUT = ModelInfo(vision=False, function_calling=True, json_output=False, family="unknown", structured_output=False)


def agent(models: Models, name: str, model: str, *tools: Any, **more: Any) -> AssistantAgent:
    client = OpenAIChatCompletionClient(model=model, base_url=f"{models.url}/v1", api_key="none", model_info=ABOUT)
    return AssistantAgent(name, client, **({"tools": list(tools)} if tools else {}), **more)


def run(agent: AssistantAgent) -> Any:
    return asyncio.run(agent.run(task="hello"))


def run_stream(agent: AssistantAgent) -> list[Any]:
    async def items() -> list[Any]:
        mine, got = current_guard().agent, []
        async for item in agent.run_stream(task="hello"):
            assert current_guard().agent == mine, "who runs it acts as before"
            got.append(item)
        return got

    return asyncio.run(items())


def run_team(*of: AssistantAgent) -> list[Any]:
    async def items() -> list[Any]:
        team = RoundRobinGroupChat(list(of), max_turns=len(of))
        return [item async for item in with_stops(team.run_stream(task="hello"))]

    return asyncio.run(items())


every_way = pytest.mark.parametrize("ask", [run, run_stream, run_team])


class Hand:
    """Tools that act, and count how often."""

    def __init__(self) -> None:
        self.acted, self.ended = 0, 0
        self.who: list[str] = []
        self.may_end = threading.Event()

    def act(self) -> str:
        """Acts."""
        self.acted += 1
        self.who.append(current_guard().agent)
        return "done"

    def long(self) -> str:
        """Acts for long."""
        self.acted += 1
        self.may_end.wait(30)
        self.ended += 1
        return "done"

    async def endless(self) -> str:
        """Acts on and on."""
        self.acted += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.ended += 1
        return "done"


@every_way
def test_s3_one_agent_is_stopped_and_the_other_goes_on(ask: Callable[..., Any], models: Models, agents: Agents) -> None:
    of_writer, of_critic = f"plain-writer-{ask.__name__}", f"plain-critic-{ask.__name__}"
    agents.stop("critic")
    error, _ = refused(lambda: ask(agent(models, "critic", of_critic)))
    stopped = tagout.find_stop(error)
    assert stopped is not None and stopped.tag == "a test", repr(error)
    ask(agent(models, "writer", of_writer))
    error, _ = refused(lambda: run_team(agent(models, "writer", of_writer), agent(models, "critic", of_critic)))
    assert tagout.find_stop(error), repr(error)
    assert (models.requests[of_writer], models.requests[of_critic]) == (2, 0)


@every_way
@pytest.mark.parametrize("kind", ["silent", "stream"])
def test_s3_a_call_of_one_agent_is_cut_and_that_of_the_other_goes_on(
    kind: str, ask: Callable[..., Any], deployment: Deployment, models: Models, agents: Agents
) -> None:
    of = {name: f"{kind}-{name}-{ask.__name__}" for name in ("writer", "critic")}
    streams = {"model_client_stream": kind == "stream"}
    works = {name: Work(lambda name=name: ask(agent(models, name, of[name], **streams))) for name in of}
    counts = models.words if kind == "stream" else models.requests
    wait_for(lambda: all(counts[model] for model in of.values()), "both to be under way")
    cut = Cut(deployment, agents.guard("critic"), works["critic"])
    assert cut.stopped is not None and cut.stopped.cut, repr(cut.error)
    assert cut.after_s < CUT_WITHIN_S
    assert models.requests[of["critic"]] == 1, "it was tried again"
    assert works["writer"].thread.is_alive()
    agents.stop("writer")
    works["writer"].wait()
    assert tagout.find_stop(works["writer"].error), repr(works["writer"].error)


def as_function(f: Callable[..., Any]) -> dict[str, Any]:
    return {"tools": [f]}


def as_tool(f: Callable[..., Any]) -> dict[str, Any]:
    return {"tools": [FunctionTool(f, description="acts")]}


def as_workbench(f: Callable[..., Any]) -> dict[str, Any]:
    return {"workbench": StaticWorkbench([FunctionTool(f, description="acts")])}


every_kind = pytest.mark.parametrize("given", [as_function, as_tool, as_workbench])


@every_kind
def test_s3_a_tool_of_an_agent_that_is_stopped_is_not_run(
    given: Callable[..., Any], models: Models, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = Hand()
    run(agent(models, "writer", f"tool-writer-{given.__name__}", **given(hand.act)))
    assert hand.who == [agents.guard("writer").agent]

    critic = agent(models, "critic", f"tool-critic-{given.__name__}", **given(hand.act))

    add = critic.model_context.add_message

    async def adds(message: Any) -> None:
        await add(message)
        if message.type == "AssistantMessage":
            agents.stop("critic")

    monkeypatch.setattr(critic.model_context, "add_message", adds)
    error, _ = refused(lambda: run(critic))
    assert tagout.find_stop(error), repr(error)
    assert models.requests[f"tool-critic-{given.__name__}"] == hand.acted == 1


@every_kind
def test_s3_an_asynchronous_tool_is_cut(given: Callable[..., Any], models: Models, agents: Agents) -> None:
    hand = Hand()
    name = f"endless_{given.__name__}"
    work = Work(lambda: run(agent(models, name, f"tool-{name}", **given(hand.endless))))
    wait_for(lambda: hand.acted or work.error, "the tool to be under way")
    agents.stop(name)
    work.wait()
    assert tagout.find_stop(work.error), repr(work.error)
    assert hand.acted == hand.ended == models.requests[f"tool-{name}"] == 1


@pytest.mark.parametrize("given", [as_function, as_tool])
def test_s3_a_plain_function_is_under_way_to_its_end(given: Callable[..., Any], models: Models, agents: Agents) -> None:
    hand = Hand()
    name = f"long_{given.__name__}"
    work = Work(lambda: run(agent(models, name, f"tool-{name}", **given(hand.long))))
    wait_for(lambda: hand.acted or work.error, "the tool to be under way")
    assert agents.guard(name).state().calls_under_way == 1
    stopping = Work(lambda: agents.stop(name))
    wait_for(lambda: not agents.guard(name).state().enabled, "the stop to arrive")
    stopping.thread.join(1)
    assert stopping.thread.is_alive(), "it is confirmed only when the function has ended"
    hand.may_end.set()
    work.wait()
    stopping.wait()
    assert stopping.error is None
    assert tagout.find_stop(work.error), repr(work.error)
    assert hand.ended == models.requests[f"tool-{name}"] == 1


def act() -> str:
    """Acts."""
    return "done"


def test_a_dumped_agent_is_loaded_as_one_that_is_guarded(models: Models, installed: tagout.Guard) -> None:
    dumped = agent(models, "writer", "plain-dumped", **as_workbench(act)).dump_component()
    with pytest.warns(UserWarning, match="SECURITY"):
        assert isinstance(AssistantAgent.load_component(dumped), AssistantAgent)


def test_example(deployment: Deployment, models: Models) -> None:
    agent = next(deployment.agents)
    with running("autogen_agent.py", agent, "stream-example", deployment, models) as example:
        example.wait_for("word", 3)
        deployment.stop(f"{agent}/writer")
        assert example.process.wait(30) == 1
    assert models.requests["stream-example"] == 1
