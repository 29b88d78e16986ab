"""Google's Agent Development Kit: `Runner(…, plugins=[TagoutPlugin()])`, or as first of an `App`'s plugins."""

from __future__ import annotations

import copy
from typing import Any

from google.adk.agents.callback_context import CallbackContext
from google.adk.models import LlmRequest
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.tools import BaseTool, FunctionTool, ToolContext

from tagout._install.acting import Acting, below
from tagout.adapters._tools import guarded


class TagoutPlugin(BasePlugin):
    """Model and tool calls of each agent of the runner are those of an agent of Tagout's of the same name.

    What a stop refuses or cuts ends the run; `tagout.find_stop(error)` finds it in the error. Asynchronous tools are cut, others
    are refused.
    """

    def __init__(self, name: str = "tagout") -> None:
        super().__init__(name)

    async def before_model_callback(self, *, callback_context: CallbackContext, llm_request: LlmRequest) -> None:
        # What a run does, it does in a task of its own, and parallel agents and tools in others below it.
        await _acting(callback_context).from_here_on()
        tools = llm_request.tools_dict
        tools.update({name: _guarded(tool) for name, tool in tools.items()})

    async def before_tool_callback(self, *, tool: BaseTool, tool_args: dict[str, Any], tool_context: ToolContext) -> None:
        # Also for tools that a person has confirmed: these are not from a model's request.
        guard = await _acting(tool_context).from_here_on()
        guard.check()


def _acting(context: CallbackContext) -> Acting:
    return below(context.agent_name, **{"gen_ai.conversation.id": context.session.id})


def _guarded(tool: BaseTool) -> BaseTool:
    copied = copy.copy(tool)
    copied.run_async = guarded(tool.run_async, tool.func if isinstance(tool, FunctionTool) else None)
    return copied
