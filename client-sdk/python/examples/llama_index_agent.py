"""An agent of LlamaIndex's under Tagout: a stop cuts its answer, and refuses its tools.

    pip install llama-index-core llama-index-llms-openai-like
    TAGOUT_AGENT=demo/mine OPENAI_API_KEY=… python llama_index_agent.py "Tell me a long story of today's weather"
"""

import asyncio
import os
import sys

import tagout
from llama_index.core.agent.workflow import AgentStream
from llama_index.llms.openai_like import OpenAILike
from tagout.adapters.llama_index import FunctionAgent

tagout.install()  # TAGOUT_AGENT says who this is, TAGOUT_PROFILE whom it asks


def temperature(city: str) -> str:
    """How warm it is in a city."""
    return f"21 °C in {city}"


llm = OpenAILike(
    model=os.environ.get("MODEL", "gpt-5-mini"),
    api_base=os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"),
    is_chat_model=True,
    is_function_calling_model=True,
)
# It is demo/mine/teller, and can be stopped alone.
teller = FunctionAgent(name="teller", llm=llm, tools=[temperature])


async def main() -> None:
    run = teller.run(sys.argv[1])
    async for event in run.stream_events():
        if isinstance(event, AgentStream):
            print(event.delta, end="", flush=True)
    await run


try:
    asyncio.run(main())
except tagout.TagoutStopped as stop:
    sys.exit(f"\n[stopped: {stop}]")
