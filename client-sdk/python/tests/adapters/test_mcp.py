"""Tool calls of the `mcp` package: refused, cut, and of the agent that makes them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import tagout
from deployment import Deployment, wait_for
from world import Agents, Work, agents, installed, refused  # noqa: F401

SERVER = str(Path(__file__).with_name("mcp_server.py"))
Use = Callable[[Any], Awaitable[object]]


class Server:
    """A server with what it has noted. `ask` has a session do something with it, and gives what came of that."""

    def __init__(self, folder: Path, way: str) -> None:
        self._notes, self._process = folder / "notes", None
        self._notes.touch()
        if way == "http":
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            self._url = f"http://127.0.0.1:{port}/mcp"
            self._process = subprocess.Popen([sys.executable, SERVER, str(self._notes), str(port)])
            wait_for(lambda: _listens(port), "the server")

    def noted(self, what: str) -> int:
        return self._notes.read_text().splitlines().count(what)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        from mcp import ClientSession, StdioServerParameters, stdio_client
        from mcp.client.streamable_http import streamable_http_client

        program = StdioServerParameters(command=sys.executable, args=[SERVER, str(self._notes)])
        to_server = streamable_http_client(self._url) if self._process else stdio_client(program)
        async with to_server as (incoming, outgoing, *_), ClientSession(incoming, outgoing) as session:
            await session.initialize()
            yield session

    def ask(self, use: Use) -> object:
        async def ask() -> object:
            ended: object = None
            async with self.session() as session:
                try:
                    ended = await use(session)
                except Exception as error:  # Out of the session's task group it would come in a group.
                    ended = error
            if isinstance(ended, Exception):
                raise ended
            return ended

        return asyncio.run(asyncio.wait_for(ask(), 60))

    def end(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(params=["stdio", "http"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, request.param)
    yield server
    server.end()


def test_s3_only_the_tools_of_the_agent_that_is_stopped_are_not_run(server: Server, agents: Agents) -> None:
    """Also in sessions that were there before, whose servers still answer other requests."""

    async def use(session: Any) -> None:
        await session.call_tool("act")
        await asyncio.to_thread(agents.stop, "critic")
        async with tagout.agent(agents.guard("critic").agent):
            with pytest.raises(tagout.TagoutStopped, match="a test"):
                await session.call_tool("act")
            assert len((await session.list_tools()).tools) == 2
        assert server.noted("acted") == 1
        await session.call_tool("act")
        assert server.noted("acted") == 2

    server.ask(use)


def test_s3_a_tool_call_under_way_is_cut(server: Server, agents: Agents) -> None:
    async def use(session: Any) -> None:
        async with tagout.agent(agents.guard("hand").agent):
            try:
                await session.call_tool("act_on")
            finally:
                # From mcp 2 on the package tells the server of it.
                if not version("mcp").startswith("1."):
                    await asyncio.to_thread(wait_for, lambda: server.noted("ended") == 1, "the server to end it")

    work = Work(lambda: server.ask(use))
    wait_for(lambda: server.noted("acting") == 1 or work.error, "the tool to be under way")
    agents.stop("hand")
    work.wait()
    stopped = tagout.find_stop(work.error)
    assert stopped is not None and stopped.cut, repr(work.error)


LATE = """
import sys
import tagout

tagout.install()
print(*(name for name in sys.modules if name.partition(".")[0] == "mcp"), "are loaded")
from mcp import ClientSession
print("guarded" if any(hasattr(vars(c).get("send_request"), "__wrapped__") for c in ClientSession.__mro__) else "not guarded")
tagout.uninstall()
print("guarded" if any(hasattr(vars(c).get("send_request"), "__wrapped__") for c in ClientSession.__mro__) else "not guarded")
print(len([finder for finder in sys.meta_path if "tagout" in type(finder).__module__]), "finders")
"""


def test_it_is_not_loaded_but_guarded_when_it_is(deployment: Deployment) -> None:
    ran = deployment.python(LATE, TAGOUT_AGENT=next(deployment.agents))
    said, errors = ran.communicate(timeout=60)
    assert said.splitlines() == ["are loaded", "guarded", "not guarded", "0 finders"], errors


def test_tools_can_be_left_alone(deployment: Deployment, client: tagout.Client, tmp_path: Path) -> None:
    agent = next(deployment.agents)
    guard = tagout.install(agent, client=client, tools=False)
    try:
        deployment.stop(agent)
        wait_for(lambda: not guard.state().enabled, "the stop to arrive")
        server = Server(tmp_path, "stdio")
        server.ask(lambda session: session.call_tool("act"))
        assert server.noted("acted") == 1
        with pytest.raises(RuntimeError, match="installed already"):
            tagout.install(agent, client=client)
    finally:
        tagout.uninstall()
