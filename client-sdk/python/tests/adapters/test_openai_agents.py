"""Agents of OpenAI's Agents SDK: whose calls are whose, and tools that are not run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest
from agents import (
    ApplyPatchTool,
    ModelSettings,
    OpenAIChatCompletionsModel,
    RunContextWrapper,
    Runner,
    ShellTool,
    function_tool,
    set_tracing_disabled,
)
from agents.tool_context import ToolContext

import tagout
from deployment import Deployment, wait_for
from examples import running
from models import Models
from tagout._install.acting import current_installed
from tagout.adapters.openai_agents import Agent
from world import Agents, Work, agents, installed, models, refused  # noqa: F401

set_tracing_disabled(True)


class Hand:
    """Tools that act, and count how often."""

    def __init__(self) -> None:
        self.acted, self.ended = 0, 0
        self.who: Any = None

    @property
    def tools(self) -> list[Any]:
        @function_tool
        def act() -> str:
            self.acted += 1
            self.who = current_installed().actor()
            return "done"

        @function_tool
        async def act_on() -> str:
            self.acted += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.ended += 1
            return "done"

        return [act, act_on]


def chat(models: Models, model: str) -> OpenAIChatCompletionsModel:
    return OpenAIChatCompletionsModel(model=model, openai_client=client_of(models))


def client_of(models: Models) -> openai.AsyncOpenAI:
    # It keeps no connections, since each question has a loop of its own.
    http_client = openai.DefaultAsyncHttpxClient(limits=httpx2.Limits(max_keepalive_connections=0))
    return openai.AsyncOpenAI(base_url=f"{models.url}/v1", api_key="none", http_client=http_client)


def ask(agent: Agent[Any]) -> str:
    return asyncio.run(Runner.run(agent, "hello")).final_output


def stream(agent: Agent[Any]) -> str:
    async def stream() -> str:
        run = Runner.run_streamed(agent, "hello")
        async for _ in run.stream_events():
            pass
        return run.final_output

    return asyncio.run(stream())


def test_s3_tools_of_every_kind_are_asked_for_also_those_that_were_added(models: Models, agents: Agents) -> None:
    hand = Hand()
    ran: list[str] = []

    class Editor:
        def create_file(self, operation: Any) -> str:
            ran.append("create")
            return "done"

        async def update_file(self, operation: Any) -> str:
            ran.append("update")
            return "done"

        delete_file = create_file

    def shell(request: Any) -> str:
        ran.append("shell")
        return "done"

    writer = Agent(name="writer", model=chat(models, "plain"))
    writer.tools += [*hand.tools, ShellTool(executor=shell), ApplyPatchTool(editor=Editor())]

    async def run_all() -> list[type[BaseException] | str]:
        act, _act_on, shell_tool, patch_tool = await writer.get_all_tools(RunContextWrapper(None))
        assert writer.tools[2].executor is shell, "what the program has stays its own"
        context = ToolContext(None, tool_name="act", tool_call_id="1", tool_arguments="{}")
        runs = [
            act.on_invoke_tool(context, "{}"),
            shell_tool.executor(None),
            patch_tool.editor.create_file(None),
            patch_tool.editor.update_file(None),
        ]
        ended = await asyncio.gather(*runs, return_exceptions=True)
        return [type(end) if isinstance(end, BaseException) else end for end in ended]

    assert asyncio.run(run_all()) == ["done"] * 4
    assert (hand.acted, sorted(ran)) == (1, ["create", "shell", "update"])
    agents.stop("writer")
    ended = asyncio.run(run_all())
    assert all(end != "done" for end in ended) and (hand.acted, len(ran)) == (1, 3), ended


def test_s3_one_agent_is_stopped_and_the_other_goes_on(models: Models, agents: Agents) -> None:
    hand = Hand()
    writer = Agent(name="writer", model=chat(models, "tool-writer-act"), tools=hand.tools)
    critic = Agent(name="Strict Critic!", model=chat(models, "tool-critic-act"), tools=hand.tools)
    agents.stop("Strict_Critic-9c90f6")
    stopped = tagout.find_stop(refused(lambda: ask(critic))[0])
    assert stopped is not None and stopped.tag == "a test"
    assert tagout.find_stop(refused(lambda: stream(critic))[0])
    assert models.requests["tool-critic-act"] == hand.acted == 0
    assert "word" in ask(writer)
    assert models.requests["tool-writer-act"] == 2 and hand.acted == 1
    assert hand.who.attributes == {"gen_ai.agent.name": "writer"}
    renamed = writer.clone(name="clerk")
    assert "word" in ask(renamed) and hand.who.attributes == {"gen_ai.agent.name": "clerk"}
    agents.stop("writer")
    assert "word" in ask(renamed) and tagout.find_stop(refused(lambda: ask(writer))[0])


@pytest.mark.parametrize("kind", ["stream", "silent"])
def test_s3_only_the_calls_of_the_agent_that_is_stopped_are_cut(kind: str, models: Models, agents: Agents) -> None:
    """Also of the one that was handed to."""
    names = (f"first-{kind}", f"second-{kind}")
    run: Callable[[Any], object] = stream if kind == "stream" else ask
    works = {}
    for name in names:
        agent = Agent(name=name, model=chat(models, f"{kind}-{name}"))
        first = Agent(name="front", model=chat(models, "tool-front"), handoffs=[agent])
        works[name] = Work(lambda: run(first if kind == "silent" else agent))
        wait_for(lambda: models.requests[f"{kind}-{name}"] == 1 or works[name].error, "the call to be under way")
    agents.stop(names[0])
    works[names[0]].wait()
    stopped = tagout.find_stop(works[names[0]].error)
    assert stopped is not None and stopped.cut, repr(works[names[0]].error)
    assert works[names[1]].thread.is_alive()
    agents.stop(names[1])
    works[names[1]].wait()
    assert tagout.find_stop(works[names[1]].error)


def test_s3_a_tool_of_an_agent_that_is_stopped_is_not_run(models: Models, agents: Agents) -> None:
    class Stops(OpenAIChatCompletionsModel):
        async def get_response(self, *args: Any, **named: Any) -> Any:
            response = await super().get_response(*args, **named)
            await asyncio.to_thread(agents.stop, "hasty")
            return response

    hand = Hand()
    hasty = Agent(name="hasty", model=Stops("tool-hasty-act", client_of(models)), tools=hand.tools)
    assert tagout.find_stop(refused(lambda: ask(hasty))[0])
    assert models.requests["tool-hasty-act"] == 1 and hand.acted == 0


def test_s3_a_tool_under_way_is_cut(models: Models, agents: Agents) -> None:
    hand = Hand()
    work = Work(lambda: ask(Agent(name="endless", model=chat(models, "tool-act_on"), tools=hand.tools)))
    wait_for(lambda: hand.acted == 1 or work.error, "the tool to be under way")
    agents.stop("endless")
    work.wait()
    stopped = tagout.find_stop(work.error)
    assert stopped is not None and stopped.cut, repr(work.error)
    assert hand.acted == hand.ended == models.requests["tool-act_on"] == 1


def test_an_agent_that_is_a_tool_is_stopped_alone(models: Models, agents: Agents) -> None:
    hand = Hand()
    helper = Agent(name="helper", model=chat(models, "tool-helper-act"), tools=hand.tools)
    tools = [helper.as_tool("ask_helper", "Asks the helper.")]
    chief = Agent(name="chief", model=chat(models, "tool-chief"), tools=tools, model_settings=ModelSettings())
    assert "word" in ask(chief) and hand.acted == 1 and models.requests["tool-helper-act"] == 2
    agents.stop("helper")
    assert "word" in ask(chief), "the helper's stop is an answer to the chief, who goes on"
    assert models.requests["tool-helper-act"] == 2 and hand.acted == 1


def test_the_example_stops_one_of_two_agents(deployment: Deployment, models: Models) -> None:
    agent = next(deployment.agents)
    with running("openai_agents_agent.py", agent, "stream-example", deployment, models) as example:
        example.wait_for("writer: word", 3)
        example.wait_for("critic: word", 3)
        deployment.stop(f"{agent}/critic")
        example.wait_for("critic: [stopped: ")
        example.wait_for("writer: word", example.printed.count("writer: word") + 3)
    assert models.requests["stream-example"] == 2
