"""CrewAI's agents, each an agent of Tagout's."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

os.environ.update(CREWAI_DISABLE_TELEMETRY="true", CREWAI_TRACING_ENABLED="false", OTEL_SDK_DISABLED="true")

from crewai import LLM, Crew, Task
from crewai.tools import tool

import tagout
from deployment import Deployment, wait_for
from examples import running
from models import Models
from tagout._install.acting import current_guard
from tagout.adapters.crewai import Agent
from world import CUT_WITHIN_S, Agents, Cut, Work, agents, installed, models, refused  # noqa: F401


def agent(models: Models, role: str, model: str, *tools: Any, stream: bool = False, **more: Any) -> Agent:
    llm = LLM(model=f"openai/{model}", base_url=f"{models.url}/v1", api_key="none", stream=stream)
    return Agent(role=role, goal="to answer", backstory="none", llm=llm, tools=list(tools), **more)


def crew(*of: Agent) -> Crew:
    tasks = [Task(description="hello", expected_output="words", agent=each) for each in of]
    return Crew(agents=list(of), tasks=tasks)


def run(agent: Agent) -> Any:
    return agent.kickoff("hello")


def run_async(agent: Agent) -> Any:
    return asyncio.run(agent.kickoff_async("hello"))


def run_crew(*of: Agent) -> Any:
    return crew(*of).kickoff()


def run_crew_async(*of: Agent) -> Any:
    return asyncio.run(crew(*of).akickoff())


# CrewAI's own.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

every_way = pytest.mark.parametrize("ask", [run, run_async, run_crew, run_crew_async])


class Hand:
    """A tool that acts, and counts how often."""

    def __init__(self) -> None:
        self.acted, self.ended = 0, 0
        self.who: list[str] = []
        self.may_end = threading.Event()

    def tool(self, **more: Any) -> Any:
        @tool("act", **more)
        def act() -> str:
            """Acts."""
            self.acted += 1
            self.who.append(current_guard().agent)
            return "done"

        return act

    @property
    def long(self) -> Any:
        @tool("act")
        def act() -> str:
            """Acts for long."""
            self.acted += 1
            self.may_end.wait(30)
            self.ended += 1
            return "done"

        return act


@every_way
def test_s3_one_agent_is_stopped_and_the_other_goes_on(ask: Callable[..., Any], models: Models, agents: Agents) -> None:
    of_writer, of_critic = f"plain-writer-{ask.__name__}", f"plain-critic-{ask.__name__}"
    critic = agent(models, "Strict Critic!", of_critic)
    agents.stop("Strict_Critic-9c90f6")
    error, _ = refused(lambda: ask(critic))
    stopped = tagout.find_stop(error)
    assert stopped is not None and stopped.tag == "a test", repr(error)
    assert "word" in ask(agent(models, "Writer", of_writer)).raw
    error, _ = refused(lambda: run_crew(agent(models, "Writer", of_writer), critic))
    assert tagout.find_stop(error), repr(error)
    assert (models.requests[of_writer], models.requests[of_critic]) == (2, 0)


@every_way
@pytest.mark.parametrize("kind", ["silent", "stream"])
def test_s3_a_call_of_one_agent_is_cut_and_that_of_the_other_goes_on(
    kind: str, ask: Callable[..., Any], deployment: Deployment, models: Models, agents: Agents
) -> None:
    of = {name: f"{kind}-{name}-{ask.__name__}" for name in ("writer", "critic")}
    works = {name: Work(lambda name=name: ask(agent(models, name, of[name], stream=kind == "stream"))) for name in of}
    counts = models.words if kind == "stream" else models.requests
    wait_for(lambda: all(counts[model] for model in of.values()), "both to be under way")
    cut = Cut(deployment, agents.guard("critic"), works["critic"])
    assert cut.stopped is not None, repr(cut.error)
    assert cut.after_s < CUT_WITHIN_S
    assert models.requests[of["critic"]] == 1, "it was tried again"
    assert works["writer"].thread.is_alive()
    agents.stop("writer")
    works["writer"].wait()
    assert tagout.find_stop(works["writer"].error), repr(works["writer"].error)


@every_way
@pytest.mark.parametrize("is_answer", [False, True])
def test_s3_a_tool_of_an_agent_that_is_stopped_is_not_run(
    is_answer: bool, ask: Callable[..., Any], models: Models, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, name = Hand(), f"{ask.__name__}-{is_answer}"
    ask(agent(models, "writer", f"tool-writer-{name}", hand.tool(result_as_answer=is_answer)))
    assert hand.who == [agents.guard("writer").agent]

    stops: list[Work] = []

    def stop() -> None:
        # It is confirmed only when the task has ended.
        stops.append(Work(lambda: agents.stop("critic")))
        wait_for(lambda: not agents.guard("critic").state().enabled, "the stop to arrive")

    critic = agent(models, "critic", f"tool-critic-{name}", hand.tool(result_as_answer=is_answer))
    _after_each_answer(critic, stop, monkeypatch)
    error, _ = refused(lambda: ask(critic))
    assert tagout.find_stop(error), repr(error)
    assert models.requests[f"tool-critic-{name}"] == hand.acted == 1
    stops[0].wait()
    assert stops[0].error is None


def _after_each_answer(agent: Agent, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(agent.llm)
    call, acall = kind.call, kind.acall

    def calls(self: Any, *args: Any, **named: Any) -> Any:
        answer = call(self, *args, **named)
        if self is agent.llm:
            act()
        return answer

    async def acalls(self: Any, *args: Any, **named: Any) -> Any:
        answer = await acall(self, *args, **named)
        if self is agent.llm:
            act()
        return answer

    monkeypatch.setattr(kind, "call", calls)
    monkeypatch.setattr(kind, "acall", acalls)


@every_way
def test_s3_a_tool_is_under_way_to_its_end(ask: Callable[..., Any], models: Models, agents: Agents) -> None:
    hand = Hand()
    name = f"long_{ask.__name__}"
    work = Work(lambda: ask(agent(models, name, f"tool-{name}", hand.long)))
    wait_for(lambda: hand.acted or work.error, "the tool to be under way")
    stopping = Work(lambda: agents.stop(name))
    wait_for(lambda: not agents.guard(name).state().enabled, "the stop to arrive")
    stopping.thread.join(1)
    assert stopping.thread.is_alive(), "it is confirmed only when the tool has ended"
    hand.may_end.set()
    work.wait()
    stopping.wait()
    assert stopping.error is None
    assert tagout.find_stop(work.error), repr(work.error)
    assert hand.ended == models.requests[f"tool-{name}"] == 1


def test_tools_run_without_tagout() -> None:
    """Whoever imports the adapter need not install."""
    from crewai.hooks import ToolCallHookContext, get_before_tool_call_hooks

    context = ToolCallHookContext("act", {}, None)
    assert [hook(context) for hook in get_before_tool_call_hooks() if hook.__module__ == "tagout.adapters.crewai"] == [None]


def test_example(deployment: Deployment, models: Models) -> None:
    agent = next(deployment.agents)
    with running("crewai_agent.py", agent, "stream-example", deployment, models) as example:
        wait_for(lambda: models.words["stream-example"], "its answer to begin")
        deployment.stop(f"{agent}/Storyteller")
        assert example.process.wait(30) == 1
    assert models.requests["stream-example"] == 1
