"""The agents of OpenAI's Agents SDK, by an `Agent` to use in place of the SDK's own.

    from tagout.adapters.openai_agents import Agent
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import agents
from agents import FunctionTool, Model, MultiProvider, Tool

from tagout._install.acting import Acting, below, tool

TContext = TypeVar("TContext")


@dataclass
class Agent(agents.Agent[TContext]):
    """An agent whose model and tool calls are those of `name`, below the agent that the program has named.

    A function tool that it is given, also one of an MCP server, is not run while the agent is stopped, and cut where it runs; so
    is an agent that is used as a tool. What hosted tools do is the model's call. A model that is named, not given, is had
    from the SDK's `MultiProvider`. With a `RunConfig` that has another model for all agents, their model calls are the program's
    agent's.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.model.given if isinstance(self.model, _Model) else self.model
        self.model: Any = _Model(self.name, given)
        self.tools: list[Tool] = self._guarded(self.tools)

    async def get_mcp_tools(self, run_context: Any) -> list[Tool]:
        return self._guarded(await super().get_mcp_tools(run_context))

    def _guarded(self, tools: list[Tool]) -> list[Tool]:
        return [_guarded(self.name, given) if isinstance(given, FunctionTool) else given for given in tools]


def _guarded(agent: str, given: FunctionTool) -> FunctionTool:
    invoke = given.on_invoke_tool
    guarded = copy.copy(given)
    guarded.on_invoke_tool = _Invoke(agent, invoke.given if isinstance(invoke, _Invoke) else invoke)
    return guarded


class _Invoke:
    def __init__(self, agent: str, given: Callable[[Any, str], Awaitable[Any]]) -> None:
        self._agent, self.given = agent, given

    async def __call__(self, context: Any, arguments: str) -> Any:
        async with below(self._agent):
            return await tool(self.given)(context, arguments)


class _Model(Model):
    def __init__(self, agent: str, given: Model | str | None) -> None:
        self._agent, self.given = agent, given

    @cached_property
    def _model(self) -> Any:
        return self.given if isinstance(self.given, Model) else MultiProvider().get_model(self.given)

    async def get_response(self, *args: Any, conversation_id: str | None = None, **named: Any) -> Any:
        async with self._acting(conversation_id):
            return await self._model.get_response(*args, conversation_id=conversation_id, **named)

    def stream_response(self, *args: Any, conversation_id: str | None = None, **named: Any) -> AsyncIterator[Any]:
        events = self._model.stream_response(*args, conversation_id=conversation_id, **named)
        return self._acting(conversation_id).steps(events)

    def get_retry_advice(self, request: Any) -> Any:
        return self._model.get_retry_advice(request)

    async def close(self) -> None:
        await self._model.close()

    def _acting(self, conversation: str | None) -> Acting:
        return below(self._agent, **({"gen_ai.conversation.id": conversation} if conversation else {}))
