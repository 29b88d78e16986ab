"""Agents of pydantic-ai.

    Agent(model, capabilities=[TagoutCapability("critic")])
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.models import Model
from pydantic_ai.models.wrapper import WrapperModel

from tagout._install.acting import Acting, below, tool


@dataclass
class TagoutCapability(AbstractCapability[Any]):
    """The model and tool calls of an agent are those of `name`, below the agent that the program has named.

    A tool, also one of a toolset or MCP server, is not run while the agent is stopped, and cut where it runs.
    """

    name: str
    conversation: str | None = None

    def get_ordering(self) -> CapabilityOrdering:
        return CapabilityOrdering(position="outermost")

    async def for_run(self, ctx: Any) -> TagoutCapability:
        return replace(self, conversation=ctx.conversation_id)

    def get_wrapper_model(self, model: Model) -> Model:
        return _Model(model, self)

    async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
        async with self.acting():
            return await tool(handler)(args)

    def acting(self) -> Acting:
        return below(self.name, **({"gen_ai.conversation.id": self.conversation} if self.conversation else {}))


class _Model(WrapperModel):
    def __init__(self, wrapped: Model, capability: TagoutCapability) -> None:
        super().__init__(wrapped)
        self._acting = capability.acting

    async def request(self, *args: Any, **named: Any) -> Any:
        async with self._acting():
            return await super().request(*args, **named)

    @asynccontextmanager
    async def request_stream(self, *args: Any, **named: Any) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            # Whose the call is, is said when it begins; who reads it is not the agent.
            async with self._acting():
                stream = await stack.enter_async_context(super().request_stream(*args, **named))
            yield stream
