"""The ways that a model call may take: TLS, a tunnel through a proxy, a forwarding proxy, uvloop, a forked child."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import urlsplit

import aiohttp
import httpx
import httpx2
import pytest
import requests
import uvloop

import tagout
from deployment import Deployment, wait_for
from models import Models
from world import CUT_WITHIN_S, Cut, Work, installed, models, refused  # noqa: F401

PATH = "/v1/chat/completions"


class Proxy:
    """Forwards requests with whole URLs as they are, and makes tunnels."""

    def __init__(self) -> None:
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def end(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            read = client.recv(4096)
            if not read:
                return
            head += read
        method, target, _ = head.split(b" ", 2)
        place = urlsplit(f"//{target.decode()}" if method == b"CONNECT" else target.decode())
        server = socket.create_connection((place.hostname or "", place.port or 80))
        if method == b"CONNECT":
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            server.sendall(head)
        threading.Thread(target=_pump, args=(server, client), daemon=True).start()
        _pump(client, server)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class Route:
    """How clients come to `models`."""

    def __init__(self, models: Models, tls: ssl.SSLContext, ca: str, proxy: Proxy | None) -> None:
        self.models, self.tls, self.ca, self.proxy = models, tls, ca, proxy
        self.url = models.url + PATH
        self.proxy_url = proxy and proxy.url


@pytest.fixture(scope="module", params=["TLS", "a tunnel", "a forwarding proxy"])
def route(request: pytest.FixtureRequest, deployment: Deployment) -> Iterator[Route]:
    node, ca = deployment.dev / "node-1", str(deployment.dev / "ca.pem")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(node / "tls.crt", node / "tls.key")
    models = Models(None if request.param == "a forwarding proxy" else served)
    proxy = None if request.param == "TLS" else Proxy()
    yield Route(models, ssl.create_default_context(cafile=ca), ca, proxy)
    models.end()
    if proxy:
        proxy.end()


def by_httpx(route: Route, model: str) -> None:
    with httpx.Client(verify=route.tls, proxy=route.proxy_url) as client:
        client.post(route.url, json={"model": model})


def by_httpx2(route: Route, model: str) -> None:
    with httpx2.Client(verify=route.tls, proxy=route.proxy_url) as client:
        client.post(route.url, json={"model": model})


async def by_async_httpx(route: Route, model: str) -> None:
    async with httpx.AsyncClient(verify=route.tls, proxy=route.proxy_url) as client:
        await client.post(route.url, json={"model": model})


async def by_async_httpx2(route: Route, model: str) -> None:
    async with httpx2.AsyncClient(verify=route.tls, proxy=route.proxy_url) as client:
        await client.post(route.url, json={"model": model})


async def by_aiohttp(route: Route, model: str) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.post(route.url, json={"model": model}, ssl=route.tls, proxy=route.proxy_url) as response:
            await response.read()


def by_requests(route: Route, model: str) -> None:
    with requests.Session() as session:
        if route.proxy_url:
            session.proxies = {"http": route.proxy_url, "https": route.proxy_url}
        session.post(route.url, json={"model": model}, timeout=30, verify=route.ca)


def by_urllib(route: Route, model: str) -> None:
    proxies = {"http": route.proxy_url, "https": route.proxy_url} if route.proxy_url else {}
    handlers = urllib.request.HTTPSHandler(context=route.tls), urllib.request.ProxyHandler(proxies)
    opener = urllib.request.build_opener(*handlers)
    with opener.open(route.url, json.dumps({"model": model}).encode(), timeout=30) as response:
        response.read()


def _in(
    loop: Callable[[], asyncio.AbstractEventLoop], ask: Callable[[Route, str], Awaitable[None]]
) -> Callable[[Route, str], object]:
    def call(route: Route, model: str) -> object:
        running = loop()
        try:
            return running.run_until_complete(ask(route, model))
        finally:
            running.close()

    return call


ASYNCHRONOUS = {"async httpx": by_async_httpx, "async httpx2": by_async_httpx2, "aiohttp": by_aiohttp}
CALLS: dict[str, Callable[[Route, str], object]] = {
    "httpx": by_httpx,
    "httpx2": by_httpx2,
    "requests": by_requests,
    "urllib": by_urllib,
    **{name: _in(asyncio.new_event_loop, ask) for name, ask in ASYNCHRONOUS.items()},
    **{f"{name} on uvloop": _in(uvloop.new_event_loop, ask) for name, ask in ASYNCHRONOUS.items()},
}


@pytest.mark.parametrize("name", CALLS)
def test_s3_a_silent_call_is_cut_and_the_next_is_refused(
    name: str, route: Route, deployment: Deployment, installed: tagout.Guard
) -> None:
    call, model = CALLS[name], name.replace(" ", "-")
    call(route, f"plain-{model}")
    if route.proxy is not None:
        assert route.proxy.connections > 0, "it went another way"

    work = Work(lambda: call(route, f"silent-{model}"))
    wait_for(lambda: route.models.requests[f"silent-{model}"] == 1 or work.error, "the call to be under way")
    cut = Cut(deployment, installed, work)
    assert cut.stopped is not None and cut.stopped.tag == "a test", repr(cut.error)
    assert cut.after_s < CUT_WITHIN_S
    wait_for(lambda: route.models.gone[f"silent-{model}"] == 1, "the server to see that its client is gone")
    assert installed.state().calls_under_way == 0

    error, _ = refused(lambda: call(route, f"blocked-{model}"))
    assert tagout.find_stop(error) is not None, repr(error)
    assert route.models.requests[f"blocked-{model}"] == 0


FORKED = """
import os, sys, httpx, tagout
url = sys.argv[1]
guard = tagout.install()
httpx.post(url, json={"model": "plain-parent"})
if os.fork() == 0:
    try:
        httpx.post(url, json={"model": "plain-child"}, timeout=30)
        print("child answered", flush=True)
        httpx.post(url, json={"model": "silent-child"}, timeout=30)
    except tagout.TagoutStopped as stop:
        print("child", "cut" if stop.cut else "refused", stop.code, flush=True)
    try:
        httpx.post(url, json={"model": "blocked-child"})
    except tagout.TagoutStopped as stop:
        print("child", "cut" if stop.cut else "refused", stop.code, flush=True)
    os._exit(0)
os.wait()
"""


def test_s4_a_forked_child_is_under_it_with_a_lease_of_its_own(deployment: Deployment, models: Models) -> None:
    agent = next(deployment.agents)
    process = deployment.python(FORKED, models.url + PATH, TAGOUT_AGENT=agent)
    wait_for(lambda: models.requests["silent-child"] == 1 or process.poll() is not None, "the child's call")
    deployment.stop(agent)
    printed, errors = process.communicate(timeout=30)
    assert printed.splitlines() == ["child answered", "child cut stopped", "child refused stopped"], errors
    assert (models.requests["plain-parent"], models.requests["plain-child"]) == (1, 1)
    assert models.requests["blocked-child"] == 0
