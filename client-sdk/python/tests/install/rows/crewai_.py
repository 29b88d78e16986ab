from __future__ import annotations

from crewai import LLM

from rows import Calls


def calls(url: str) -> Calls:
    def ask(model: str, streams: bool) -> object:
        return LLM(model=f"openai/{model}", base_url=f"{url}/v1", api_key="none", stream=streams).call("hello")

    return {"sync": lambda model: ask(model, False), "sync stream": lambda model: ask(model, True)}
