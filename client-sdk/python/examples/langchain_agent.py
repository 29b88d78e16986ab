"""Two of LangChain's agents under Tagout: a stop of one refuses its model and its tools, and the other goes on.

    pip install langchain langchain-openai
    TAGOUT_AGENT=demo/mine OPENAI_API_KEY=… python langchain_agent.py "What time is it in Vienna?"
"""

import asyncio
import datetime
import os
import sys
import zoneinfo

import tagout
from langchain.agents import create_agent
from langchain.tools import tool
from langchain_openai import ChatOpenAI
from tagout.adapters.langchain import TagoutMiddleware  # its agents are named below ours: demo/mine/writer

tagout.install()  # TAGOUT_AGENT says who this is, TAGOUT_PROFILE whom it asks


@tool
def time_in(zone: str) -> str:
    """The time in a zone, such as Europe/Vienna."""
    try:
        return str(datetime.datetime.now(zoneinfo.ZoneInfo(zone)))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        return "there is no such zone"


async def answer(name: str) -> None:
    model = ChatOpenAI(model=os.environ.get("MODEL", "gpt-5-mini"))
    agent = create_agent(model, [time_in], middleware=[TagoutMiddleware(name)])
    try:
        while True:  # again and again, as agents that watch over something do
            said = await agent.ainvoke({"messages": [("user", sys.argv[1])]})
            print(f"{name}: {said['messages'][-1].content}", flush=True)
            await asyncio.sleep(1)
    except Exception as error:
        stop = tagout.find_stop(error)
        if stop is None:
            raise
        print(f"{name}: [stopped: {stop}]", flush=True)


async def main() -> None:
    await asyncio.gather(answer("writer"), answer("critic"))


asyncio.run(main())
