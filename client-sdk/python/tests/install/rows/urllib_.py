from __future__ import annotations

import json
import urllib.request

from rows import Calls


def calls(url: str) -> Calls:
    def ask(body: dict[str, object]) -> object:
        data = json.dumps(body).encode()
        with urllib.request.urlopen(f"{url}/v1/chat/completions", data, timeout=30) as response:
            return response.readlines()

    return {
        "sync": lambda model: ask({"model": model}),
        "sync stream": lambda model: ask({"model": model, "stream": True}),
    }
