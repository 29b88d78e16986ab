from __future__ import annotations

from typing import Any

import anthropic

from rows import Calls, blocking

ASKED: Any = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 100}


def calls(url: str) -> Calls:
    client = anthropic.Anthropic(base_url=url, api_key="none")

    def sync(model: str) -> object:
        return client.messages.create(model=model, **ASKED)

    def sync_stream(model: str) -> object:
        with client.messages.stream(model=model, **ASKED) as stream:
            return list(stream.text_stream)

    async def ask(model: str) -> object:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="none") as client:
            return await client.messages.create(model=model, **ASKED)

    async def stream(model: str) -> object:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="none") as client:
            async with client.messages.stream(model=model, **ASKED) as stream:
                return [text async for text in stream.text_stream]

    return {
        "sync": sync,
        "sync stream": sync_stream,
        "async": blocking(ask),
        "async stream": blocking(stream),
    }
