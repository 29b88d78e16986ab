"""Agents of pydantic-ai: whose calls are whose, and tools that are not run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest
from pydantic_ai import Agent
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import tagout
from deployment import Deployment, wait_for
from examples import running
from models import Models
from tagout._install.acting import current_installed
from tagout.adapters.pydantic_ai import TagoutCapability
from world import Agents, Work, agents, installed, models, refused  # noqa: F401


class Hand:
    """Tools that act, and count how often."""

    def __init__(self) -> None:
        self.acted, self.ended = 0, 0
        self.who: Any = None

    def act(self) -> str:
        self.acted += 1
        self.who = current_installed().actor()
        return "done"

    async def act_on(self) -> str:
        self.acted += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.ended += 1
        return "done"


def agent(models: Models, name: str, model: str, hand: Hand | None = None, *more: AbstractCapability[Any]) -> Agent[Any]:
    # It keeps no connections, since each question has a loop of its own.
    http_client = openai.DefaultAsyncHttpxClient(limits=httpx2.Limits(max_keepalive_connections=0))
    client = openai.AsyncOpenAI(base_url=f"{models.url}/v1", api_key="none", http_client=http_client)
    chat = OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client))
    return Agent(chat, tools=[hand.act, hand.act_on] if hand else [], capabilities=[*more, TagoutCapability(name)])


def ask(agent: Agent[Any]) -> str:
    return asyncio.run(agent.run("hello", conversation_id="a talk")).output


def ask_sync(agent: Agent[Any]) -> str:
    return agent.run_sync("hello", conversation_id="a talk").output


def stream(agent: Agent[Any]) -> str:
    async def stream() -> str:
        before = current_installed().actor()
        async with agent.run_stream("hello") as result:
            assert current_installed().actor() == before, "who reads the answer is not the agent"
            return "".join([text async for text in result.stream_text(delta=True)])

    return asyncio.run(stream())


@pytest.mark.parametrize("way", [ask, ask_sync])
def test_s3_one_agent_is_stopped_and_the_other_goes_on(way: Callable[..., str], models: Models, agents: Agents) -> None:
    hand, writes, criticises = Hand(), f"tool-writer-{way.__name__}-act", f"tool-critic-{way.__name__}-act"
    writer = agent(models, "writer", writes, hand)
    critic = agent(models, "Strict Critic!", criticises, hand)
    agents.stop("Strict_Critic-9c90f6")
    stopped = tagout.find_stop(refused(lambda: way(critic))[0])
    assert stopped is not None and stopped.tag == "a test"
    assert tagout.find_stop(refused(lambda: stream(critic))[0])
    assert models.requests[criticises] == hand.acted == 0
    assert "word" in way(writer)
    assert models.requests[writes] == 2 and hand.acted == 1
    assert hand.who.attributes == {"gen_ai.agent.name": "writer", "gen_ai.conversation.id": "a talk"}


@pytest.mark.parametrize("kind", ["stream", "silent"])
def test_s3_only_the_calls_of_the_agent_that_is_stopped_are_cut(kind: str, models: Models, agents: Agents) -> None:
    way = stream if kind == "stream" else ask
    works = {}
    for name in (f"first-{kind}", f"second-{kind}"):
        one = agent(models, name, f"{kind}-{name}")
        works[name] = Work(lambda: way(one))
        wait_for(lambda: models.requests[f"{kind}-{name}"] == 1 or works[name].error, "the call to be under way")
    for name in works:
        agents.stop(name)
        works[name].wait()
        stopped = tagout.find_stop(works[name].error)
        assert stopped is not None and stopped.cut, repr(works[name].error)
        assert name.startswith("second") or works[f"second-{kind}"].thread.is_alive()


def test_s3_a_tool_of_an_agent_that_is_stopped_is_not_run(models: Models, agents: Agents) -> None:
    class Stops(AbstractCapability[Any]):
        async def after_model_request(self, ctx: Any, *, request_context: Any, response: Any) -> Any:
            await asyncio.to_thread(agents.stop, "hasty")
            return response

    hand = Hand()
    assert tagout.find_stop(refused(lambda: ask(agent(models, "hasty", "tool-hasty-act", hand, Stops())))[0])
    assert models.requests["tool-hasty-act"] == 1 and hand.acted == 0


def test_s3_a_tool_under_way_is_cut(models: Models, agents: Agents) -> None:
    hand = Hand()
    work = Work(lambda: ask(agent(models, "endless", "tool-act_on", hand)))
    wait_for(lambda: hand.acted == 1 or work.error, "the tool to be under way")
    agents.stop("endless")
    work.wait()
    stopped = tagout.find_stop(work.error)
    assert stopped is not None and stopped.cut, repr(work.error)
    assert hand.acted == hand.ended == models.requests["tool-act_on"] == 1


def test_the_example_stops_one_of_two_agents(deployment: Deployment, models: Models) -> None:
    agent = next(deployment.agents)
    with running("pydantic_ai_agent.py", agent, "stream-example", deployment, models) as example:
        example.wait_for("writer: word", 3)
        example.wait_for("critic: word", 3)
        deployment.stop(f"{agent}/critic")
        example.wait_for("critic: [stopped: ")
        example.wait_for("writer: word", example.printed.count("writer: word") + 3)
    assert models.requests["stream-example"] == 2
