from __future__ import annotations

from typing import Any

import openai
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, set_tracing_disabled

from rows import Calls, blocking

set_tracing_disabled(True)


def calls(url: str) -> Calls:
    def agent(kind: Any, model: str) -> Any:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
        return Agent(name="tester", model=kind(model=model, openai_client=client))

    calls: Calls = {}
    for name, kind in (("chat", OpenAIChatCompletionsModel), ("responses", OpenAIResponsesModel)):

        def sync(model: str, kind: Any = kind) -> object:
            return Runner.run_sync(agent(kind, model), "hello").final_output

        async def ask(model: str, kind: Any = kind) -> object:
            return (await Runner.run(agent(kind, model), "hello")).final_output

        async def stream(model: str, kind: Any = kind) -> object:
            return [event async for event in Runner.run_streamed(agent(kind, model), "hello").stream_events()]

        calls |= {f"{name} sync": sync, f"{name} async": blocking(ask), f"{name} async stream": blocking(stream)}
    return calls
