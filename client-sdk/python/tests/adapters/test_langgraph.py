"""LangChain's agents and LangGraph's nodes: whose calls are whose, and a stopped run that goes on from its checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelRetryMiddleware
from langchain.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

import tagout
from deployment import Deployment, wait_for
from examples import running
from models import Models
from tagout._install.acting import current_installed
from tagout.adapters.langchain import TagoutMiddleware, node
from world import Agents, Work, agents, installed, models, refused  # noqa: F401

ASKED: Any = {"messages": [("user", "hello")]}
RUN: Any = {"configurable": {"thread_id": "a thread"}}
# One for all: langchain-openai's asynchronous clients share connections, which belong to a loop.
LOOP = asyncio.new_event_loop()


def invoke(agent: Any, asked: Any = ASKED, run: Any = None) -> Any:
    return agent.invoke(asked, run)


def invoke_async(agent: Any, asked: Any = ASKED, run: Any = None) -> Any:
    return LOOP.run_until_complete(agent.ainvoke(asked, run))


both_ways = pytest.mark.parametrize("ask", [invoke, invoke_async])


class Hand:
    """A tool that acts, and counts how often."""

    def __init__(self) -> None:
        self.acted, self.ended = 0, 0
        self.who: Any = None

    @property
    def tool(self) -> Any:
        @tool
        def act() -> str:
            """Acts."""
            self.acted += 1
            self.who = current_installed().actor()
            return "done"

        return act

    @property
    def endless(self) -> Any:
        @tool
        async def act() -> str:
            """Acts on and on."""
            self.acted += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.ended += 1
            return "done"

        return act


def chat(models: Models, model: str) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=f"{models.url}/v1", api_key="none")


def agent(models: Models, name: str, model: str, act: Any, *more: AgentMiddleware, checkpointer: Any = None) -> Any:
    middleware = [TagoutMiddleware(name), *more]
    return create_agent(chat(models, model), [act], middleware=middleware, checkpointer=checkpointer)


@both_ways
def test_s3_one_agent_is_stopped_and_the_other_goes_on(ask: Callable[..., Any], models: Models, agents: Agents) -> None:
    hand = Hand()
    writer = agent(models, "writer", f"tool-writer-{ask.__name__}", hand.tool)
    critic = agent(models, "Strict Critic!", f"tool-critic-{ask.__name__}", hand.tool, ModelRetryMiddleware(initial_delay=0))
    agents.stop("Strict_Critic-9c90f6")
    error, _ = refused(lambda: ask(critic))
    stopped = tagout.find_stop(error)
    assert stopped is not None and stopped.tag == "a test", repr(error)
    assert models.requests[f"tool-critic-{ask.__name__}"] == hand.acted == 0
    assert "word" in ask(writer)["messages"][-1].content
    assert models.requests[f"tool-writer-{ask.__name__}"] == 2 and hand.acted == 1


@both_ways
def test_s3_a_tool_of_an_agent_that_is_stopped_is_not_run(ask: Callable[..., Any], models: Models, agents: Agents) -> None:
    class Stops(AgentMiddleware):
        def after_model(self, state: Any, runtime: Any) -> None:
            agents.stop("hasty")

    hand = Hand()
    hasty = agent(models, "hasty", f"tool-hasty-{ask.__name__}", hand.tool, Stops())
    error, _ = refused(lambda: ask(hasty))
    assert tagout.find_stop(error), repr(error)
    assert models.requests[f"tool-hasty-{ask.__name__}"] == 1 and hand.acted == 0


def test_s3_a_tool_under_way_is_cut(models: Models, agents: Agents) -> None:
    hand = Hand()
    endless = agent(models, "endless", "tool-endless", hand.endless)
    work = Work(lambda: invoke_async(endless))
    wait_for(lambda: hand.acted == 1 or work.error, "the tool to be under way")
    agents.stop("endless")
    work.wait()
    stopped = tagout.find_stop(work.error)
    assert stopped is not None and stopped.cut, repr(work.error)
    assert hand.acted == hand.ended == models.requests["tool-endless"] == 1


@both_ways
def test_the_thread_of_a_run_is_the_conversation(ask: Callable[..., Any], models: Models, agents: Agents) -> None:
    hand = Hand()
    ask(agent(models, "talker", "tool-talker", hand.tool, checkpointer=InMemorySaver()), ASKED, RUN)
    assert hand.who.attributes == {"gen_ai.agent.name": "talker", "gen_ai.conversation.id": "a thread"}


@both_ways
def test_s3_a_stopped_run_keeps_its_checkpoint_and_goes_on_after_a_resume(
    ask: Callable[..., Any], models: Models, agents: Agents
) -> None:
    ran: list[str] = []
    model = {"model": f"silent-run-{ask.__name__}"}

    def first(state: MessagesState) -> Any:
        ran.append("first")
        return {"messages": [("assistant", "before the stop")]}

    def second(state: MessagesState) -> Any:
        ran.append("second")
        return {"messages": [chat(models, model["model"]).invoke(state["messages"])]}

    async def second_async(state: MessagesState) -> Any:
        ran.append("second")
        return {"messages": [await chat(models, model["model"]).ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("first", node("first", first))
    graph.add_node("second", node("second", second if ask is invoke else second_async))
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    app = graph.compile(checkpointer=InMemorySaver())

    work = Work(lambda: ask(app, ASKED, RUN))
    wait_for(lambda: models.requests[model["model"]] == 1 or work.error, "the call to be under way")
    agents.stop("second")
    work.wait()
    stopped = tagout.find_stop(work.error)
    assert stopped is not None and stopped.cut, repr(work.error)
    kept = app.get_state(RUN)
    assert kept.next == ("second",) and kept.values["messages"][-1].content == "before the stop"
    assert tagout.find_stop(refused(lambda: ask(app, None, RUN))[0]), "it is stopped still"

    agents.resume("second")
    model["model"] = f"plain-run-{ask.__name__}"
    said = [message.content for message in ask(app, None, RUN)["messages"]]
    assert said == ["hello", "before the stop", "word word word "]
    assert ran == ["first", "second", "second", "second"], "the node that was cut runs again, the one before it does not"
    assert models.requests[f"silent-run-{ask.__name__}"] == models.requests[model["model"]] == 1


def test_the_example_stops_one_of_two_agents(deployment: Deployment, models: Models) -> None:
    agent = next(deployment.agents)
    with running("langchain_agent.py", agent, "tool-example", deployment, models) as example:
        example.wait_for("writer: word")
        example.wait_for("critic: word")
        deployment.stop(f"{agent}/critic")
        example.wait_for("critic: [stopped: ")
        example.wait_for("writer: word", example.printed.count("writer: word") + 2)
