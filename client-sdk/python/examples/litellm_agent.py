"""Two agents that call models by LiteLLM under Tagout: a stop of one cuts its answer, and the other goes on.

    pip install litellm
    TAGOUT_AGENT=demo/mine OPENAI_API_KEY=… python litellm_agent.py "Tell me a long story"
"""

import asyncio
import os
import sys

import tagout
from tagout.adapters.litellm import acompletion  # its agents are named below ours: demo/mine/writer

tagout.install()  # TAGOUT_AGENT says who this is, TAGOUT_PROFILE whom it asks


async def answer(name: str) -> None:
    model, asked = os.environ.get("MODEL", "openai/gpt-5-mini"), [{"role": "user", "content": sys.argv[1]}]
    try:
        answer = await acompletion(model=model, messages=asked, stream=True, metadata={"agent_id": name})
        async for part in answer:
            print(f"{name}: {part.choices[0].delta.content or ''}", flush=True)
    except Exception as error:
        stop = tagout.find_stop(error)
        if stop is None:
            raise
        print(f"{name}: [stopped: {stop}]", flush=True)


async def main() -> None:
    await asyncio.gather(answer("writer"), answer("critic"))


asyncio.run(main())
