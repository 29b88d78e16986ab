from __future__ import annotations

from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient

from rows import Calls, blocking

ABOUT: Any = {"vision": False, "function_calling": False, "json_output": False, "family": "unknown", "structured_output": False}


def calls(url: str) -> Calls:
    def agent(model: str, streams: bool) -> Any:
        client = OpenAIChatCompletionClient(model=model, base_url=f"{url}/v1", api_key="none", model_info=ABOUT)
        return AssistantAgent("tester", client, model_client_stream=streams)

    async def ask(model: str) -> object:
        return await agent(model, False).run(task="hello")

    async def stream(model: str) -> object:
        return [event async for event in agent(model, True).run_stream(task="hello")]

    return {"async": blocking(ask), "async stream": blocking(stream)}
