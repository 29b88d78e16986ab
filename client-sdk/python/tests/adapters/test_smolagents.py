"""smolagents' agents, each an agent of Tagout's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from smolagents import OpenAIServerModel, tool
from smolagents.models import ChatMessageToolCall, ChatMessageToolCallFunction

import tagout
from deployment import Deployment, wait_for
from examples import running
from models import Models
from tagout._install.acting import current_guard
from tagout.adapters.smolagents import CodeAgent, ToolCallingAgent
from world import CUT_WITHIN_S, Agents, Cut, Work, agents, installed, models, refused  # noqa: F401


class Asking(OpenAIServerModel):
    """A model that wants `calls` called, whatever it answers; `then` is called after each answer."""

    calls, then = "act", staticmethod(lambda: None)

    def generate(self, *args: Any, **named: Any) -> Any:
        answer = super().generate(*args, **named)
        task = {"task": "hello"} if self.calls != "act" else {}
        function = ChatMessageToolCallFunction(name=self.calls, arguments=task)
        answer.tool_calls = [ChatMessageToolCall(function=function, id="t1", type="function")]
        answer.content = f"<code>\nran = True\n{self.calls}(**{task})\n</code>"
        self.then()
        return answer


def agent(kind: Any, models: Models, name: str, model: str, *tools: Any, **more: Any) -> Any:
    asking = Asking(model_id=model, api_base=f"{models.url}/v1", api_key="none")
    streams = model.startswith("stream")
    named = {"name": name, "description": "acts", "stream_outputs": streams, "verbosity_level": 0, "max_steps": 1}
    return kind(list(tools), asking, **named, **more)


def run(agent: Any) -> Any:
    return agent.run("hello")


def run_stream(agent: Any) -> Any:
    mine = current_guard().agent
    for step in agent.run("hello", stream=True):
        assert current_guard().agent == mine, "who runs it acts as before"
    return step.output


both_ways = pytest.mark.parametrize("ask", [run, run_stream])
both_kinds = pytest.mark.parametrize("kind", [ToolCallingAgent, CodeAgent])


class Hand:
    """A tool that acts, and counts how often."""

    def __init__(self) -> None:
        self.acted, self.ended = 0, 0
        self.who: list[str] = []
        self.may_end = threading.Event()
        self.may_end.set()

    @property
    def tool(self) -> Any:
        @tool
        def act() -> str:
            """Acts."""
            self.acted += 1
            self.who.append(current_guard().agent)
            self.may_end.wait(30)
            self.ended += 1
            return "done"

        return act


@both_ways
@both_kinds
def test_s3_one_agent_is_stopped_and_the_other_goes_on(
    kind: Any, ask: Callable[..., Any], models: Models, agents: Agents
) -> None:
    hand = Hand()
    of_writer, of_critic = (f"plain-{name}-{ask.__name__}-{kind.__name__}" for name in ("writer", "critic"))
    critic = agent(kind, models, "strict_critic", of_critic, hand.tool)
    agents.stop("strict_critic")
    error, _ = refused(lambda: ask(critic))
    stopped = tagout.find_stop(error)
    assert stopped is not None and stopped.tag == "a test", repr(error)
    assert (models.requests[of_critic], hand.acted) == (0, 0)
    assert ask(agent(kind, models, "writer", of_writer, hand.tool))
    assert hand.who == [agents.guard("writer").agent]


@both_ways
@both_kinds
@pytest.mark.parametrize("way", ["silent", "stream"])
def test_s3_a_call_of_one_agent_is_cut_and_that_of_the_other_goes_on(
    way: str, kind: Any, ask: Callable[..., Any], deployment: Deployment, models: Models, agents: Agents
) -> None:
    of = {name: f"{way}-{name}-{ask.__name__}-{kind.__name__}" for name in ("writer", "critic")}
    works = {name: Work(lambda name=name: ask(agent(kind, models, name, of[name]))) for name in of}
    counts = models.words if way == "stream" else models.requests
    wait_for(lambda: all(counts[model] for model in of.values()), "both to be under way")
    cut = Cut(deployment, agents.guard("critic"), works["critic"])
    assert cut.stopped is not None and cut.stopped.cut, repr(cut.error)
    assert cut.after_s < CUT_WITHIN_S
    assert models.requests[of["critic"]] == 1, "it was tried again"
    assert works["writer"].thread.is_alive()
    agents.stop("writer")
    works["writer"].wait()
    assert tagout.find_stop(works["writer"].error), repr(works["writer"].error)


@both_ways
@both_kinds
def test_s3_a_tool_of_an_agent_that_is_stopped_is_not_run(
    kind: Any, ask: Callable[..., Any], models: Models, agents: Agents
) -> None:
    hand, model = Hand(), f"plain-hasty-{ask.__name__}-{kind.__name__}"
    hasty = agent(kind, models, "hasty", model, hand.tool)
    hasty.model.then = lambda: agents.stop("hasty")
    error, _ = refused(lambda: ask(hasty))
    assert tagout.find_stop(error), repr(error)
    assert (models.requests[model], hand.acted) == (1, 0)
    assert kind is ToolCallingAgent or "ran" not in hasty.python_executor.state


@both_ways
@both_kinds
def test_s3_a_tool_is_under_way_to_its_end(kind: Any, ask: Callable[..., Any], models: Models, agents: Agents) -> None:
    hand, model = Hand(), f"plain-long-{ask.__name__}-{kind.__name__}"
    hand.may_end.clear()
    work = Work(lambda: ask(agent(kind, models, "long", model, hand.tool)))
    wait_for(lambda: hand.acted or work.error, "the tool to be under way")
    stopping = Work(lambda: agents.stop("long"))
    wait_for(lambda: not agents.guard("long").state().enabled, "the stop to arrive")
    stopping.thread.join(1)
    assert stopping.thread.is_alive(), "it is confirmed only when the tool has ended"
    hand.may_end.set()
    work.wait()
    stopping.wait()
    assert stopping.error is None
    # Also where that was the last step: the answer that smolagents makes of the error is none.
    assert tagout.find_stop(work.error), repr(work.error)
    assert hand.ended == models.requests[model] == 1


@both_ways
@both_kinds
def test_s3_a_stop_of_a_managed_agent_ends_the_run(
    kind: Any, ask: Callable[..., Any], models: Models, agents: Agents
) -> None:
    of_manager, of_member = (f"plain-{name}-{ask.__name__}-{kind.__name__}" for name in ("manager", "member"))
    hand = Hand()

    def managing() -> Any:
        member = agent(ToolCallingAgent, models, "member", of_member, hand.tool)
        manager = agent(kind, models, "manager", of_manager, managed_agents=[member])
        manager.model.calls = "member"
        return manager

    ask(managing())
    assert hand.who == [agents.guard("member").agent]
    before = models.requests[of_member]
    agents.stop("member")
    error, _ = refused(lambda: ask(managing()))
    stopped = tagout.find_stop(error)
    assert stopped is not None and stopped.agent == agents.guard("member").agent, repr(error)
    assert models.requests[of_member] == before and hand.acted == 1


def test_example(deployment: Deployment, models: Models) -> None:
    agent = next(deployment.agents)
    with running("smolagents_agent.py", agent, "stream-example", deployment, models) as example:
        wait_for(lambda: models.words["stream-example"], "its answer to begin")
        deployment.stop(f"{agent}/teller")
        assert example.process.wait(30) == 1
    assert models.requests["stream-example"] == 1
