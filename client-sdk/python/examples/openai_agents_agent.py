"""Two agents of OpenAI's Agents SDK under Tagout: a stop of one cuts its answer, and the other goes on.

    pip install openai-agents
    TAGOUT_AGENT=demo/mine OPENAI_API_KEY=… python openai_agents_agent.py "Tell me a long story"
"""

import asyncio
import os
import sys

import tagout
from agents import Runner
from tagout.adapters.openai_agents import Agent  # its agents are named below ours: demo/mine/writer

tagout.install()  # TAGOUT_AGENT says who this is, TAGOUT_PROFILE whom it asks


async def answer(agent: Agent) -> None:
    try:
        run = Runner.run_streamed(agent, sys.argv[1])
        async for event in run.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                print(f"{agent.name}: {event.data.delta}", flush=True)
    except Exception as error:
        stop = tagout.find_stop(error)
        if stop is None:
            raise
        print(f"{agent.name}: [stopped: {stop}]", flush=True)


async def main() -> None:
    model = os.environ.get("MODEL", "gpt-5-mini")
    await asyncio.gather(*(answer(Agent(name=name, model=model)) for name in ("writer", "critic")))


asyncio.run(main())
