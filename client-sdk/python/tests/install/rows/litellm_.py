from __future__ import annotations

from typing import Any

import litellm

from rows import Calls, blocking

litellm.suppress_debug_info = True
ASKED: Any = {"messages": [{"role": "user", "content": "hello"}], "api_key": "none", "num_retries": 2}


def calls(url: str) -> Calls:
    calls: Calls = {}
    for vendor, base in (("openai", f"{url}/v1"), ("anthropic", url)):
        asked = ASKED | {"api_base": base}

        def sync(model: str, vendor: str = vendor, asked: Any = asked) -> object:
            return litellm.completion(model=f"{vendor}/{model}", **asked)

        def sync_stream(model: str, vendor: str = vendor, asked: Any = asked) -> object:
            return list(litellm.completion(model=f"{vendor}/{model}", stream=True, **asked))

        async def ask(model: str, vendor: str = vendor, asked: Any = asked) -> object:
            return await litellm.acompletion(model=f"{vendor}/{model}", **asked)

        async def stream(model: str, vendor: str = vendor, asked: Any = asked) -> object:
            return [part async for part in await litellm.acompletion(model=f"{vendor}/{model}", stream=True, **asked)]

        calls |= {
            f"{vendor} sync": sync,
            f"{vendor} sync stream": sync_stream,
            f"{vendor} async": blocking(ask),
            f"{vendor} async stream": blocking(stream),
        }
    return calls
