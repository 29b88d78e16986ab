"""LangChain's agents and LangGraph's nodes.

    create_agent(model, tools, middleware=[TagoutMiddleware("critic")])
    graph.add_node("critic", node("critic", critic))
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from langchain.agents.middleware import AgentMiddleware
from langgraph.runtime import get_runtime

from tagout._install.acting import Acting, below, current_guard, tool

F = TypeVar("F", bound=Callable[..., Any])
Handler = Callable[[Any], Any]
AsyncHandler = Callable[[Any], Awaitable[Any]]


class TagoutMiddleware(AgentMiddleware):
    """The model and tool calls of an agent are those of `name`, below the agent that the program has named.

    Put it first: then no other middleware makes an answer of a stop. A model's answer that comes when the agent is stopped is
    none, and a tool is not run then; where it runs already, an asynchronous one is cut.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._agent = name

    def wrap_model_call(self, request: Any, handler: Handler) -> Any:
        with _acting(self._agent, request.runtime):
            answer = handler(request)
            current_guard().check()
            return answer

    async def awrap_model_call(self, request: Any, handler: AsyncHandler) -> Any:
        async with _acting(self._agent, request.runtime):
            answer = await handler(request)
            current_guard().check()
            return answer

    def wrap_tool_call(self, request: Any, handler: Handler) -> Any:
        with _acting(self._agent, request.runtime):
            return tool(handler)(request)

    async def awrap_tool_call(self, request: Any, handler: AsyncHandler) -> Any:
        async with _acting(self._agent, request.runtime):
            return await tool(handler)(request)


def node(name: str, f: F) -> F:
    """A node of a graph, a function or coroutine function, in which the agent `name` acts.

    A node that is cut has not run: after a resume its graph goes on with it, from the checkpoint before it.
    """
    if inspect.iscoroutinefunction(f):

        @functools.wraps(f)
        async def acting_later(*args: Any, **named: Any) -> Any:
            async with _acting(name, _runtime()):
                return await f(*args, **named)

        return acting_later  # type: ignore[return-value]

    @functools.wraps(f)
    def acting(*args: Any, **named: Any) -> Any:
        with _acting(name, _runtime()):
            return f(*args, **named)

    return acting  # type: ignore[return-value]


def _acting(name: str, runtime: Any) -> Acting:
    """With the thread of the graph's run as the conversation, where it has one."""
    thread = getattr(getattr(runtime, "execution_info", None), "thread_id", None)
    return below(name, **({"gen_ai.conversation.id": thread} if thread else {}))


def _runtime() -> Any:
    try:
        return get_runtime()
    except RuntimeError:
        return None  # Python 3.10 does not know it in tasks.
