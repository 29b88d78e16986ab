from __future__ import annotations

import importlib
from typing import Any

from rows import Calls, blocking

LIBRARY = "httpx"


def calls(url: str, library: str = LIBRARY) -> Calls:
    httpx: Any = importlib.import_module(library)
    url = f"{url}/v1/chat/completions"
    client = httpx.Client(timeout=30)

    def sync(model: str) -> object:
        return client.post(url, json={"model": model}).json()

    def sync_stream(model: str) -> object:
        with client.stream("POST", url, json={"model": model, "stream": True}) as response:
            return list(response.iter_lines())

    async def ask(model: str) -> object:
        async with httpx.AsyncClient(timeout=30) as client:
            return (await client.post(url, json={"model": model})).json()

    async def stream(model: str) -> object:
        async with httpx.AsyncClient(timeout=30) as client:
            async with client.stream("POST", url, json={"model": model, "stream": True}) as response:
                return [line async for line in response.aiter_lines()]

    return {
        "sync": sync,
        "sync stream": sync_stream,
        "async": blocking(ask),
        "async stream": blocking(stream),
    }
