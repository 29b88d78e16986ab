from __future__ import annotations

from collections.abc import Callable
from typing import Any

import litellm

from rows import Calls, blocking

litellm.suppress_debug_info = True
MESSAGES: Any = [{"role": "user", "content": "hello"}]
ASKED: Any = {"messages": MESSAGES, "api_key": "none", "num_retries": 2}


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

        route = _router(vendor, asked)

        def routed_stream(model: str, route: Any = route) -> object:
            return list(route(model).completion(model, MESSAGES, stream=True))

        async def routed(model: str, route: Any = route) -> object:
            return await route(model).acompletion(model, MESSAGES)

        calls |= {
            f"{vendor} sync": sync,
            f"{vendor} sync stream": sync_stream,
            f"{vendor} async": blocking(ask),
            f"{vendor} async stream": blocking(stream),
            f"{vendor} router stream": routed_stream,
            f"{vendor} router async": blocking(routed),
        }
    return calls


def _router(vendor: str, asked: Any) -> Callable[[str], Any]:
    """Its Router for a model, which retries above all others."""

    def route(model: str) -> Any:
        where = {"model": f"{vendor}/{model}", "api_base": asked["api_base"], "api_key": "none"}
        return litellm.Router(model_list=[{"model_name": model, "litellm_params": where}])

    return route
