from __future__ import annotations

import requests

from rows import Calls


def calls(url: str) -> Calls:
    url = f"{url}/v1/chat/completions"
    session = requests.Session()

    def sync(model: str) -> object:
        return session.post(url, json={"model": model}, timeout=30).json()

    def stream(model: str) -> object:
        with session.post(url, json={"model": model, "stream": True}, timeout=30, stream=True) as response:
            return list(response.iter_lines())

    return {"sync": sync, "sync stream": stream}
