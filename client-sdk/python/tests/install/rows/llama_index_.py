from __future__ import annotations

from typing import Any

from llama_index.llms.openai_like import OpenAILike

from rows import Calls, blocking


def calls(url: str) -> Calls:
    def llm(model: str) -> Any:
        return OpenAILike(model=model, api_base=f"{url}/v1", api_key="none", is_chat_model=True)

    async def ask(model: str) -> object:
        return await llm(model).acomplete("hello")

    async def stream(model: str) -> object:
        return [part async for part in await llm(model).astream_complete("hello")]

    return {
        "sync": lambda model: llm(model).complete("hello"),
        "sync stream": lambda model: list(llm(model).stream_complete("hello")),
        "async": blocking(ask),
        "async stream": blocking(stream),
    }
