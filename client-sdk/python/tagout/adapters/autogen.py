"""AutoGen's agents: `AssistantAgent` of this module in place of AutoGen's, and `Guarded` for other kinds of agent.

A team makes text of its members' errors; `async for message in with_stops(team.run_stream(task=…))` raises them as they were.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, TypeVar

from autogen_agentchat import agents
from autogen_agentchat.base import Response
from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage, ToolCallExecutionEvent
from autogen_core import CancellationToken, ComponentModel
from autogen_core.tools import BaseTool, FunctionTool, StreamTool, TextResultContent, ToolResult, ToolSchema, Workbench

from tagout._install.acting import below, tool as guarded_stream
from tagout._stopped import TagoutStopped, find_stop
from tagout.adapters._tools import guarded

T = TypeVar("T")

# Where agents leave their stops for who runs their team.
_stops: ContextVar[list[TagoutStopped] | None] = ContextVar("tagout_autogen_stops", default=None)


class Guarded:
    """For an agent's class, before AutoGen's: what it does is done by an agent of Tagout's of the same name."""

    name: str

    async def on_messages(self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken) -> Response:
        async with below(self.name):
            return await super().on_messages(messages, cancellation_token)  # type: ignore[misc]

    async def on_messages_stream(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> AsyncGenerator[BaseAgentEvent | BaseChatMessage | Response, None]:
        acting = below(self.name)
        items = super().on_messages_stream(messages, cancellation_token)  # type: ignore[misc]
        try:
            async with aclosing(acting.steps(items)) as steps:
                async for item in steps:
                    yield item
                    # AutoGen tells the model of a tool that was refused or cut, or even takes that for the answer.
                    if isinstance(item, ToolCallExecutionEvent) and any(result.is_error for result in item.content):
                        async with acting as guard:
                            guard.check()
        except Exception as error:
            stopped, stops = find_stop(error), _stops.get()
            if stopped is not None and stops is not None:
                stops.append(stopped)
            raise


class AssistantAgent(Guarded, agents.AssistantAgent):
    """Its tools are guarded, too, also those of workbenches: refused while it is stopped, and cut if they are asynchronous."""

    component_provider_override = "tagout.adapters.autogen.AssistantAgent"

    def __init__(
        self,
        name: str,
        model_client: Any,
        *,
        tools: Sequence[BaseTool[Any, Any] | Callable[..., Any]] | None = None,
        workbench: Workbench | Sequence[Workbench] | None = None,
        **more: Any,
    ) -> None:
        if tools is not None:
            tools = [_guarded(tool) for tool in tools]
        if workbench is not None:
            workbench = [_Workbench(each) for each in ([workbench] if isinstance(workbench, Workbench) else workbench)]
        super().__init__(name, model_client, tools=tools, workbench=workbench, **more)


async def with_stops(stream: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """What a team's `run_stream()` gives; where it ends by the stop of an agent of this module's, that is raised."""
    stops: list[TagoutStopped] = []
    try:
        while True:
            before = _stops.set(stops)
            try:
                item = await anext(stream)
            except StopAsyncIteration:
                return
            finally:
                _stops.reset(before)
            yield item
    except Exception as error:
        if stops and find_stop(error) is None:
            raise stops[0] from error
        raise
    finally:
        await stream.aclose()


def _guarded(tool: BaseTool[Any, Any] | Callable[..., Any]) -> BaseTool[Any, Any]:
    # Nothing public says what a tool runs.
    function = getattr(tool, "_func", None) if isinstance(tool, BaseTool) else tool
    copied = copy.copy(tool) if isinstance(tool, BaseTool) else FunctionTool(tool, description=tool.__doc__ or "")
    copied.run_json = guarded(copied.run_json, function)
    if isinstance(copied, StreamTool):
        copied.run_json_stream = guarded_stream(copied.run_json_stream)
    return copied


class _Workbench(Workbench):
    """A workbench whose tools are guarded. They say by their result that they were stopped: AutoGen waits for ever for others."""

    def __init__(self, of: Workbench) -> None:
        self._of = of

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
        call_id: str | None = None,
    ) -> ToolResult:
        try:
            return await guarded(self._of.call_tool)(name, arguments, cancellation_token, call_id)
        except TagoutStopped as stopped:
            return ToolResult(name=name, result=[TextResultContent(content=str(stopped))], is_error=True)

    async def list_tools(self) -> list[ToolSchema]:
        return await self._of.list_tools()

    async def start(self) -> None:
        await self._of.start()

    async def stop(self) -> None:
        await self._of.stop()

    async def reset(self) -> None:
        await self._of.reset()

    async def save_state(self) -> Mapping[str, Any]:
        return await self._of.save_state()

    async def load_state(self, state: Mapping[str, Any]) -> None:
        await self._of.load_state(state)

    def dump_component(self) -> ComponentModel:
        return self._of.dump_component()
