from __future__ import annotations

import aiohttp

from rows import Calls, blocking


def calls(url: str) -> Calls:
    url = f"{url}/v1/chat/completions"

    async def ask(model: str) -> object:
        async with aiohttp.ClientSession() as session, session.post(url, json={"model": model}) as response:
            return await response.json()

    async def stream(model: str) -> object:
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json={"model": model, "stream": True}) as response,
        ):
            return [line async for line in response.content]

    return {"async": blocking(ask), "async stream": blocking(stream)}
