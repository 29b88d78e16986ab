from __future__ import annotations

from typing import Any

from smolagents import ChatMessage, OpenAIServerModel

from rows import Calls

ASKED = [ChatMessage(role="user", content=[{"type": "text", "text": "hello"}])]


def calls(url: str) -> Calls:
    def model(name: str) -> Any:
        return OpenAIServerModel(model_id=name, api_base=f"{url}/v1", api_key="none")

    return {
        "sync": lambda name: model(name).generate(ASKED),
        "sync stream": lambda name: list(model(name).generate_stream(ASKED)),
    }
