"""A graph of one node that asks a chat model, by OpenAI's and by Anthropic's wrapper."""

from __future__ import annotations

from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph

from rows import Calls, blocking

ASKED: Any = {"messages": [("user", "hello")]}


def calls(url: str) -> Calls:
    def openai_graph(model: str, streams: bool) -> Any:
        return _graph(ChatOpenAI(model=model, base_url=f"{url}/v1", api_key="none", streaming=streams))

    def anthropic_graph(model: str, streams: bool) -> Any:
        return _graph(ChatAnthropic(model=model, base_url=url, api_key="none", streaming=streams))

    calls: Calls = {}
    for name, graph in (("openai", openai_graph), ("anthropic", anthropic_graph)):

        def sync(model: str, graph: Any = graph) -> object:
            return graph(model, False).invoke(ASKED)

        def sync_stream(model: str, graph: Any = graph) -> object:
            return list(graph(model, True).stream(ASKED, stream_mode="messages"))

        async def ask(model: str, graph: Any = graph) -> object:
            return await graph(model, False).ainvoke(ASKED)

        async def stream(model: str, graph: Any = graph) -> object:
            return [part async for part in graph(model, True).astream(ASKED, stream_mode="messages")]

        calls |= {
            f"{name} sync": sync,
            f"{name} sync stream": sync_stream,
            f"{name} async": blocking(ask),
            f"{name} async stream": blocking(stream),
        }
    return calls


def _graph(model: Any) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("ask", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_edge(START, "ask")
    return graph.compile()
