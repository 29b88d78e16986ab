from __future__ import annotations

from typing import Any

import openai

from rows import Calls, blocking

MESSAGES: Any = [{"role": "user", "content": "hello"}]


def calls(url: str) -> Calls:
    url = f"{url}/v1"
    # The SDK's own retries are on: they must not come to it.
    client = openai.OpenAI(base_url=url, api_key="none")

    def sync(model: str) -> object:
        return client.chat.completions.create(model=model, messages=MESSAGES)

    def sync_stream(model: str) -> object:
        return list(client.chat.completions.create(model=model, messages=MESSAGES, stream=True))

    async def ask(model: str) -> object:
        async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
            return await client.chat.completions.create(model=model, messages=MESSAGES)

    async def stream(model: str) -> object:
        async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
            return [part async for part in await client.chat.completions.create(model=model, messages=MESSAGES, stream=True)]

    return {
        "sync": sync,
        "sync stream": sync_stream,
        "async": blocking(ask),
        "async stream": blocking(stream),
    }
