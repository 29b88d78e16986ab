"""An MCP server of the tests' own. What it notes in the file that it is given is the judge: a line for each run of a tool.

    python mcp_server.py NOTES [PORT]
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

try:
    from mcp.server import MCPServer as Server
except ImportError:  # mcp 1
    from mcp.server.fastmcp import FastMCP as Server

notes = Path(sys.argv[1])
address = {"host": "127.0.0.1", "port": int(sys.argv[2])} if len(sys.argv) > 2 else {}


def note(what: str) -> None:
    with notes.open("a") as file:
        file.write(f"{what}\n")


is_old = Server.__name__ == "FastMCP"
server = Server("tests", **(address if is_old else {}))


@server.tool()
async def act() -> str:
    """Acts."""
    note("acted")
    return "done"


@server.tool()
async def act_on() -> str:
    """Acts on and on."""
    note("acting")
    try:
        await anyio.sleep_forever()
    finally:
        note("ended")
    return "done"


if address:
    server.run("streamable-http", **({} if is_old else address))
else:
    server.run("stdio")
