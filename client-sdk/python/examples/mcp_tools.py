"""An agent with the tools of an MCP server under Tagout: a stop refuses and cuts its tool calls as well as those of its model.

    pip install openai mcp
    TAGOUT_AGENT=demo/mine OPENAI_API_KEY=… python mcp_tools.py "What time is it in Vienna?" uvx mcp-server-time
"""

import asyncio
import json
import os
import sys

import openai
import tagout
from mcp import ClientSession, StdioServerParameters, stdio_client

tagout.install()  # TAGOUT_AGENT says who this is, TAGOUT_PROFILE whom it asks


async def answer(session: ClientSession, asked: list) -> str:
    tools = (await session.list_tools()).model_dump(by_alias=True)["tools"]
    offered = [
        {"type": "function", "function": {"name": tool["name"], "parameters": tool["inputSchema"]}} for tool in tools
    ]
    async with openai.AsyncOpenAI() as client:
        while True:
            model = os.environ.get("MODEL", "gpt-5-mini")
            said = (await client.chat.completions.create(model=model, messages=asked, tools=offered)).choices[0].message
            if not said.tool_calls:
                return said.content
            asked.append(said)
            for call in said.tool_calls:
                print(f"[{call.function.name}]", flush=True)
                result = await session.call_tool(call.function.name, json.loads(call.function.arguments))
                text = "".join(part.text for part in result.content if part.type == "text")
                asked.append({"role": "tool", "tool_call_id": call.id, "content": text})


async def main() -> None:
    server = StdioServerParameters(command=sys.argv[2], args=sys.argv[3:])
    async with stdio_client(server) as (incoming, outgoing), ClientSession(incoming, outgoing) as session:
        await session.initialize()
        try:
            print(await answer(session, [{"role": "user", "content": sys.argv[1]}]))
        except tagout.TagoutStopped as stop:
            print(f"[stopped: {stop}]")


asyncio.run(main())
