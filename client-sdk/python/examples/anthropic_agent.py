"""Two agents of one process on Anthropic's SDK under Tagout: a stop of one cuts its answer, and the other goes on.

    pip install anthropic
    TAGOUT_AGENT=demo/mine ANTHROPIC_API_KEY=… python anthropic_agent.py "Tell me a long story"
"""

import asyncio
import os
import sys

import anthropic
import tagout

mine = tagout.install().agent  # TAGOUT_AGENT says who this is, TAGOUT_PROFILE whom it asks


async def answer(name: str, client: anthropic.AsyncAnthropic) -> None:
    model, asked = os.environ.get("MODEL", "claude-sonnet-4-5"), [{"role": "user", "content": sys.argv[1]}]
    try:
        async with client.messages.stream(model=model, max_tokens=1024, messages=asked) as stream:
            async for text in stream.text_stream:
                print(f"{name}: {text}", flush=True)
    except tagout.TagoutStopped as stop:  # never retried by the SDK
        print(f"{name}: [stopped: {stop}]", flush=True)


async def main() -> None:
    async with anthropic.AsyncAnthropic() as client:
        tasks = []
        for name in ("writer", "critic"):
            with tagout.agent(f"{mine}/{name}"):  # the task is of this agent for as long as it lives
                tasks.append(asyncio.create_task(answer(name, client)))
        await asyncio.gather(*tasks)


asyncio.run(main())
