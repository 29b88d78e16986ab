"""LlamaIndex's agents: `FunctionAgent`, `ReActAgent` and `CodeActAgent` of this module in place of LlamaIndex's."""

from __future__ import annotations

import copy
from typing import Any

from llama_index.core.agent import workflow
from llama_index.core.agent.workflow import AgentOutput
from llama_index.core.objects import ObjectRetriever
from llama_index.core.tools import AsyncBaseTool, BaseTool, FunctionTool, adapt_to_async_tool

from tagout._install.acting import below
from tagout.adapters._tools import guarded


class Guarded:
    """For an agent's class, before LlamaIndex's: what it does is done by an agent of Tagout's of the same name.

    Its tools are refused while that is stopped, and cut if they are asynchronous functions, also in an `AgentWorkflow`. What a
    stop did to a tool, LlamaIndex tells the model, which is refused then.
    """

    name: str
    tools: Any
    tool_retriever: Any

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        if self.tools is not None:
            self.tools = [_guarded(tool, self.name) for tool in self.tools]
        if self.tool_retriever is not None:
            self.tool_retriever = _retrieving(self.tool_retriever, self.name)

    async def take_step(self, *args: Any, **named: Any) -> AgentOutput:
        async with below(self.name):
            return await super().take_step(*args, **named)  # type: ignore[misc]


class FunctionAgent(Guarded, workflow.FunctionAgent):
    pass


class ReActAgent(Guarded, workflow.ReActAgent):
    pass


class CodeActAgent(Guarded, workflow.CodeActAgent):
    pass


def _guarded(tool: BaseTool, agent: str) -> AsyncBaseTool:
    copied = copy.copy(adapt_to_async_tool(tool))
    run = guarded(copied.acall, tool.real_fn if isinstance(tool, FunctionTool) else tool)

    async def acall(*args: Any, **named: Any) -> Any:
        async with below(agent):
            return await run(*args, **named)

    copied.acall = acall
    return copied


def _retrieving(retriever: ObjectRetriever[BaseTool], agent: str) -> ObjectRetriever[BaseTool]:
    copied = copy.copy(retriever)

    async def aretrieve(asked: Any) -> list[BaseTool]:
        return [_guarded(tool, agent) for tool in await retriever.aretrieve(asked)]

    copied.aretrieve = aretrieve
    return copied
