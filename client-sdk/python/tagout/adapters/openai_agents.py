"""The agents of OpenAI's Agents SDK, by an `Agent` to use in place of the SDK's own.

    from tagout.adapters.openai_agents import Agent
"""

from __future__ import annotations

import copy
import inspect
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

    Its function tools, those of its MCP servers, and its shell, patch and custom tools are not run while the agent is stopped,
    and what of them is asynchronous is cut where it runs; so is an agent that is used as a tool. A `ComputerTool` acts by the
    program's own object: guard that with `tagout.tool`. What hosted tools do is the model's call. A model that is named, not
    given, is had from the SDK's `MultiProvider`. With a `RunConfig` that has another model or provider for all agents, their
    model calls are the program's agent's.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.model.given if isinstance(self.model, _Model) else self.model
        self.model: Any = _Model(self.name, given)

    async def get_all_tools(self, run_context: Any) -> list[Tool]:
        """For a run: also tools that were added since the agent was made."""
        return [_guarded(self.name, given) for given in await super().get_all_tools(run_context)]


# What runs a tool on this machine, by the attribute that holds it.
_RUNNERS = ("on_invoke_tool", "executor")
_EDITS = ("create_file", "update_file", "delete_file")


def _guarded(agent: str, given: Tool) -> Tool:
    guarded = copy.copy(given)
    for name in _RUNNERS:
        runner = getattr(given, name, None)
        if runner is not None:
            setattr(guarded, name, _Invoke(agent, runner) if isinstance(given, FunctionTool) else _runner(agent, runner))
    editor = getattr(given, "editor", None)
    if editor is not None:
        setattr(guarded, "editor", _Editor(agent, editor))
    return guarded


class _Invoke:
    """What runs a function tool; its parameters are looked at."""

    def __init__(self, agent: str, given: Callable[[Any, str], Awaitable[Any]]) -> None:
        self._agent, self._given = agent, given

    async def __call__(self, context: Any, arguments: str) -> Any:
        async with below(self._agent):
            return await tool(self._given)(context, arguments)


def _runner(agent: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """What runs another tool: it may be asynchronous or not."""

    async def acting(*args: Any) -> Any:
        async with below(agent):
            result = tool(run)(*args)
            return await result if inspect.isawaitable(result) else result

    return acting


class _Editor:
    """Applies patches, each under the agent's guard."""

    def __init__(self, agent: str, editor: Any) -> None:
        for name in _EDITS:
            setattr(self, name, _runner(agent, getattr(editor, name)))


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
