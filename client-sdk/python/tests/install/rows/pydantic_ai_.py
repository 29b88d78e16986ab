from __future__ import annotations

from typing import Any

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from rows import Calls, blocking


def calls(url: str) -> Calls:
    def agent(model: str) -> Any:
        return Agent(OpenAIChatModel(model, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none")))

    async def ask(model: str) -> object:
        return (await agent(model).run("hello")).output

    async def stream(model: str) -> object:
        async with agent(model).run_stream("hello") as result:
            return [text async for text in result.stream_text(delta=True)]

    return {
        "sync": lambda model: agent(model).run_sync("hello").output,
        "async": blocking(ask),
        "async stream": blocking(stream),
    }
