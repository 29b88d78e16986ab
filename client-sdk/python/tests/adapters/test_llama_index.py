"""LlamaIndex's agents, each an agent of Tagout's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentOutput, AgentWorkflow
from llama_index.core.objects import ObjectRetriever
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

import tagout
from deployment import Deployment, wait_for
from examples import running
from models import Models
from tagout._install.acting import current_guard
from tagout.adapters.llama_index import FunctionAgent, ReActAgent
from world import CUT_WITHIN_S, Agents, Cut, Work, agents, installed, models, refused  # noqa: F401


def llm(models: Models, model: str) -> OpenAILike:
    local = {"api_base": f"{models.url}/v1", "api_key": "none"}
    return OpenAILike(model=model, is_chat_model=True, is_function_calling_model=True, **local)


def agent(models: Models, name: str, model: str, *tools: Any, kind: Any = FunctionAgent, **more: Any) -> Any:
    streams = model.startswith("stream")
    return kind(name=name, description="acts", llm=llm(models, model), tools=list(tools), streaming=streams, **more)


def run(agent: Any) -> Any:
    async def answer() -> Any:
        return await agent.run("hello")

    return asyncio.run(answer())


def run_workflow(*of: Any) -> Any:
    async def answer() -> Any:
        mine = current_guard().agent
        handler = AgentWorkflow(agents=list(of), root_agent=of[0].name).run("hello")
        async for _ in handler.stream_events():
            assert current_guard().agent == mine, "who runs it acts as before"
        return await handler

    return asyncio.run(answer())


# LlamaIndex's own.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

both_ways = pytest.mark.parametrize("ask", [run, run_workflow])


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


@both_ways
@pytest.mark.parametrize("kind", [FunctionAgent, ReActAgent])
def test_s3_one_agent_is_stopped_and_the_other_goes_on(
    kind: Any, ask: Callable[..., Any], models: Models, agents: Agents
) -> None:
    of_writer, of_critic = (f"plain-{name}-{ask.__name__}-{kind.__name__}" for name in ("writer", "critic"))
    critic = agent(models, "Strict Critic!", of_critic, kind=kind)
    agents.stop("Strict_Critic-9c90f6")
    error, _ = refused(lambda: ask(critic))
    stopped = tagout.find_stop(error)
    assert stopped is not None and stopped.tag == "a test", repr(error)
    assert "word" in str(ask(agent(models, "writer", of_writer)))
    assert (models.requests[of_writer], models.requests[of_critic]) == (1, 0)


@both_ways
@pytest.mark.parametrize("kind", ["silent", "stream"])
def test_s3_a_call_of_one_agent_is_cut_and_that_of_the_other_goes_on(
    kind: str, ask: Callable[..., Any], deployment: Deployment, models: Models, agents: Agents
) -> None:
    of = {name: f"{kind}-{name}-{ask.__name__}" for name in ("writer", "critic")}
    works = {name: Work(lambda name=name: ask(agent(models, name, of[name]))) for name in of}
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


class Tools(ObjectRetriever[Any]):
    """Retrieves all there are."""

    def __init__(self, *tools: Any) -> None:
        self._tools = list(tools)

    async def aretrieve(self, _asked: Any) -> list[Any]:
        return self._tools


def as_function(f: Callable[..., Any]) -> dict[str, Any]:
    return {"tools": [f]}


def as_tool(f: Callable[..., Any]) -> dict[str, Any]:
    return {"tools": [FunctionTool.from_defaults(f)]}


def retrieved(f: Callable[..., Any]) -> dict[str, Any]:
    return {"tools": [], "tool_retriever": Tools(FunctionTool.from_defaults(f))}


every_kind = pytest.mark.parametrize("given", [as_function, as_tool, retrieved])


@both_ways
@every_kind
def test_s3_a_tool_of_an_agent_that_is_stopped_is_not_run(
    given: Callable[..., Any], ask: Callable[..., Any], models: Models, agents: Agents
) -> None:
    class Hasty(FunctionAgent):
        async def take_step(self, *args: Any, **named: Any) -> AgentOutput:
            output = await super().take_step(*args, **named)
            agents.stop("critic")
            return output

    hand, name = Hand(), f"{ask.__name__}-{given.__name__}"

    def of(kind: Any, who: str) -> Any:
        return kind(name=who, description="acts", llm=llm(models, f"tool-{who}-{name}"), streaming=False, **given(hand.act))

    ask(of(FunctionAgent, "writer"))
    assert hand.who == [agents.guard("writer").agent]
    error, _ = refused(lambda: ask(of(Hasty, "critic")))
    assert tagout.find_stop(error), repr(error)
    assert models.requests[f"tool-critic-{name}"] == hand.acted == 1


@both_ways
def test_s3_an_asynchronous_tool_is_cut(ask: Callable[..., Any], models: Models, agents: Agents) -> None:
    hand, name = Hand(), f"endless_{ask.__name__}"
    work = Work(lambda: ask(agent(models, name, f"tool-{name}", hand.endless)))
    wait_for(lambda: hand.acted or work.error, "the tool to be under way")
    agents.stop(name)
    work.wait()
    assert tagout.find_stop(work.error), repr(work.error)
    assert hand.acted == hand.ended == models.requests[f"tool-{name}"] == 1


@both_ways
def test_s3_a_plain_function_is_under_way_to_its_end(ask: Callable[..., Any], models: Models, agents: Agents) -> None:
    hand, name = Hand(), f"long_{ask.__name__}"
    work = Work(lambda: ask(agent(models, name, f"tool-{name}", hand.long)))
    wait_for(lambda: hand.acted or work.error, "the tool to be under way")
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


def test_example(deployment: Deployment, models: Models) -> None:
    agent = next(deployment.agents)
    with running("llama_index_agent.py", agent, "stream-example", deployment, models) as example:
        example.wait_for("word", 3)
        deployment.stop(f"{agent}/teller")
        assert example.process.wait(30) == 1
    assert models.requests["stream-example"] == 1
