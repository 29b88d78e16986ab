"""Two agents of pydantic-ai under Tagout: a stop of one cuts its answer, and the other goes on.

    pip install "pydantic-ai-slim[openai]"
    TAGOUT_AGENT=demo/mine OPENAI_API_KEY=… python pydantic_ai_agent.py "Tell me a long story"
"""

import asyncio
import os
import sys

import tagout
from pydantic_ai import Agent
from tagout.adapters.pydantic_ai import TagoutCapability  # its agents are named below ours: demo/mine/writer

tagout.install()  # TAGOUT_AGENT says who this is, TAGOUT_PROFILE whom it asks


async def answer(name: str) -> None:
    agent = Agent(f"openai-chat:{os.environ.get('MODEL', 'gpt-5-mini')}", capabilities=[TagoutCapability(name)])
    try:
        async with agent.run_stream(sys.argv[1]) as result:
            async for text in result.stream_text(delta=True):
                print(f"{name}: {text}", flush=True)
    except Exception as error:
        stop = tagout.find_stop(error)
        if stop is None:
            raise
        print(f"{name}: [stopped: {stop}]", flush=True)


async def main() -> None:
    await asyncio.gather(answer("writer"), answer("critic"))


asyncio.run(main())
