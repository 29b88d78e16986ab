"""An agent of Google's Agent Development Kit under Tagout: a stop cuts its answer, and refuses its tools.

    pip install google-adk
    TAGOUT_AGENT=demo/mine GOOGLE_API_KEY=… python google_adk_agent.py "Tell me a long story of today's weather"
"""

import asyncio
import os
import sys

import tagout
from google.adk.agents import Agent
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.apps import App
from google.adk.runners import InMemoryRunner
from google.genai import types
from tagout.adapters.google_adk import TagoutPlugin

tagout.install()  # TAGOUT_AGENT says who this is, TAGOUT_PROFILE whom it asks


def temperature(city: str) -> str:
    """How warm it is in a city."""
    return f"21 °C in {city}"


async def main() -> None:
    # The plugin makes it demo/mine/teller, which can be stopped alone.
    teller = Agent(name="teller", model=os.environ.get("MODEL", "gemini-2.5-flash"), tools=[temperature])
    runner = InMemoryRunner(app=App(name="demo", root_agent=teller, plugins=[TagoutPlugin()]))
    session = await runner.session_service.create_session(app_name="demo", user_id="me")
    asked = types.Content(role="user", parts=[types.Part(text=sys.argv[1])])
    streamed = RunConfig(streaming_mode=StreamingMode.SSE)
    async for event in runner.run_async(user_id="me", session_id=session.id, new_message=asked, run_config=streamed):
        if event.partial:
            print(event.content.parts[0].text, end="", flush=True)


try:
    asyncio.run(main())
except Exception as error:
    stop = tagout.find_stop(error)
    if stop is None:
        raise
    sys.exit(f"\n[stopped: {stop}]")
