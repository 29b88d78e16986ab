"""Two AutoGen agents under Tagout: a stop of one cuts its answer and ends the team's run.

    pip install autogen-agentchat "autogen-ext[openai]"
    TAGOUT_AGENT=demo/mine OPENAI_API_KEY=… python autogen_agent.py "Tell me a long story"
"""

import asyncio
import os
import sys

import tagout
from autogen_agentchat.messages import ModelClientStreamingChunkEvent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient
from tagout.adapters.autogen import AssistantAgent, with_stops

tagout.install()  # TAGOUT_AGENT says who this is, TAGOUT_PROFILE whom it asks

ABOUT = ModelInfo(vision=False, function_calling=True, json_output=False, family="unknown", structured_output=False)
client = OpenAIChatCompletionClient(model=os.environ.get("MODEL", "gpt-5-mini"), model_info=ABOUT)
# They are demo/mine/writer and demo/mine/critic, and each can be stopped alone.
writer, critic = (AssistantAgent(name, client, model_client_stream=True) for name in ("writer", "critic"))


async def main() -> None:
    team = RoundRobinGroupChat([writer, critic], max_turns=4)
    async for message in with_stops(team.run_stream(task=sys.argv[1])):
        if isinstance(message, ModelClientStreamingChunkEvent):
            print(message.content, end="", flush=True)


try:
    asyncio.run(main())
except tagout.TagoutStopped as stop:
    sys.exit(f"\n[stopped: {stop}]")
