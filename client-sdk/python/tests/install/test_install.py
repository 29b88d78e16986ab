"""What `install()` guards, what it leaves alone, and how it goes away."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import http.client
import http.server
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import anthropic
import httpx
import httpx2
import openai
import pytest
import requests

import tagout
from deployment import PATIENCE_S, Deployment, wait_for
from http2 import Http2Models
from models import Models
from tagout._install.acting import below, current_guard
from tagout._install.endpoints import Endpoints
from tagout._install.flight import Flight
from tagout._install.patches import Patches
from world import Cut, Work, installed, models, refused  # noqa: F401

PATH = "/v1/chat/completions"


def ask(client: httpx.Client, models: Models, model: str) -> object:
    return client.post(models.url + PATH, json={"model": model}).json()


def test_s3_clients_and_connections_of_before_are_guarded(
    deployment: Deployment, client: tagout.Client, models: Models
) -> None:
    pooled = httpx.Client()
    session = requests.Session()
    ask(pooled, models, "plain")
    session.post(models.url + PATH, json={"model": "plain"})
    connections = models.connections

    guard = tagout.install(next(deployment.agents), client=client)
    try:
        ask(pooled, models, "plain")
        session.post(models.url + PATH, json={"model": "plain"})
        assert models.connections == connections, "they are the same connections"
        for model, call in (
            ("silent-before", lambda: ask(pooled, models, "silent-before")),
            ("silent-session", lambda: session.post(models.url + PATH, json={"model": "silent-session"})),
        ):
            with tagout.agent(next(deployment.agents)) as other:
                work = Work(call)  # A thread is of the agent that is named.
                wait_for(lambda: models.requests[model] == 1, "the call to be under way")
                assert Cut(deployment, other, work).stopped
        deployment.stop(guard.agent)
        for call in (lambda: ask(pooled, models, "late"), lambda: session.post(models.url + PATH, json={"model": "late"})):
            assert tagout.find_stop(refused(call)[0])
        assert models.requests["late"] == 0
    finally:
        tagout.uninstall()


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_what_is_no_model_call_lives_on_during_a_stop(
    library: type, deployment: Deployment, models: Models, installed: tagout.Guard
) -> None:
    number = f"stream-other-{library.__name__}"
    client = library.Client()
    model = Work(lambda: ask(client, models, f"silent-{number}"))
    other = client.send(
        client.build_request("POST", f"{models.url}/other/stream", json={"model": number, "stream": True}), stream=True
    )
    parts = other.iter_bytes()
    next(parts)
    wait_for(lambda: models.requests[f"silent-{number}"] == 1, "the call to be under way")
    assert Cut(deployment, installed, model).stopped
    for _ in range(20):
        assert next(parts)
    other.close()
    assert client.get(f"{models.url}/anything").status_code == 200


def test_a_connection_goes_back_to_its_pool_and_is_not_shut_there(
    deployment: Deployment, models: Models, installed: tagout.Guard
) -> None:
    client = httpx.Client(limits=httpx.Limits(keepalive_expiry=None))
    ask(client, models, "plain-pool")
    connections = models.connections
    assert installed.state().calls_under_way == 0
    deployment.stop(installed.agent)
    wait_for(lambda: refused(installed.check)[0], "the stop to arrive")
    assert client.get(f"{models.url}/anything").status_code == 200
    assert models.connections == connections, "the pooled connection was good"


def test_the_error_is_of_the_vendors_kind_and_survives_pickling(
    deployment: Deployment, models: Models, installed: tagout.Guard
) -> None:
    deployment.stop(installed.agent)
    error, _ = refused(lambda: httpx.post(models.url + PATH, json={"model": "x"}))
    assert isinstance(error, (tagout.TagoutStopped))
    assert isinstance(error, openai.OpenAIError) and isinstance(error, anthropic.AnthropicError)
    assert error.tag == "a test" and "a test" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, openai.OpenAIError) and again.tag == error.tag and str(again) == str(error)


def test_tasks_and_threads_are_of_the_agent_that_starts_them(
    deployment: Deployment, models: Models, installed: tagout.Guard
) -> None:
    def call(model: str) -> bool:
        return refused(lambda: httpx.post(models.url + PATH, json={"model": model}))[0] is None

    async def tasks() -> list[bool]:
        async def call_async() -> bool:
            async with httpx.AsyncClient() as client:
                try:
                    await client.post(models.url + PATH, json={"model": "plain-task"})
                except tagout.TagoutStopped:
                    return False
                return True

        other = asyncio.create_task(call_async())
        loop = asyncio.get_running_loop()
        return [await other, await loop.run_in_executor(None, call, "plain-executor")]

    pool = ThreadPoolExecutor(1)
    with tagout.agent(next(deployment.agents)) as stopped:
        deployment.stop(stopped.agent)
        assert call("plain-of-stopped") is False
        assert asyncio.run(tasks()) == [False, False]
        assert pool.submit(call, "plain-of-stopped").result() is False
        ran: list[bool] = []
        thread = threading.Thread(target=lambda: ran.append(call("plain-of-stopped")))
        thread.start()
        thread.join()
        assert ran == [False]
    assert call("plain-of-default") is True
    assert pool.submit(call, "plain-of-default").result() is True, "a pool's thread is of whoever submits"
    assert models.requests["plain-of-stopped"] == models.requests["plain-task"] == 0


def test_one_block_is_entered_by_tasks_and_threads_at_once(deployment: Deployment, installed: tagout.Guard) -> None:
    critic, writer = tagout.agent(next(deployment.agents)), tagout.agent(next(deployment.agents))
    with critic:
        pass  # The first one waits, and so would not be in there with others.

    async def overlapping(left: asyncio.Event, goes_first: bool) -> None:
        try:
            async with critic as guard:
                await (asyncio.sleep(0) if goes_first else left.wait())
                assert current_guard() is guard
        finally:
            left.set()
        assert current_guard() is installed
        raise tagout.TagoutStopped("its own")

    async def main() -> list[BaseException]:
        left = asyncio.Event()
        return await asyncio.gather(*(overlapping(left, first) for first in (True, False)), return_exceptions=True)

    assert [str(error) for error in asyncio.run(main())] == ["its own"] * 2

    barrier = threading.Barrier(3)

    def in_thread() -> None:
        with critic:
            barrier.wait(PATIENCE_S)
        assert current_guard() is installed

    works = [Work(in_thread) for _ in range(3)]
    for work in works:
        work.wait()
        assert work.error is None

    with critic, writer as guard, critic:
        assert current_guard() is not guard
    assert current_guard() is installed
    critic.__enter__()
    with writer as guard:
        critic.__exit__(None, None, None)
        assert current_guard() is guard, "whoever leaves first, the others go on"
    assert current_guard() is installed


def test_a_generator_that_is_closed_in_another_context_leaves_its_block(
    deployment: Deployment, installed: tagout.Guard
) -> None:
    async def items() -> AsyncIterator[int]:
        with tagout.agent(next(deployment.agents)):
            yield 1

    async def main() -> None:
        begun, other = items(), contextvars.copy_context()
        assert await anext(begun) == 1
        with pytest.raises(StopIteration):
            other.run(begun.aclose().send, None)
        assert other.run(current_guard) is installed

    asyncio.run(main())


def test_agents_of_different_names_are_different_agents(deployment: Deployment, installed: tagout.Guard) -> None:
    def scope(name: str) -> str:
        with below(name) as guard:
            assert guard.agent.startswith(f"{installed.agent}/")
            return guard.agent.removeprefix(f"{installed.agent}/")

    assert scope("critic-2.b") == "critic-2.b"
    assert scope("Senior Researcher") == "Senior_Researcher"
    names = ["研究者", "Критик", "a/b", "a:b", "a_b", "..", "", "x" * 64 + "1", "x" * 64 + "2", "Senior Researcher!"]
    scopes = [scope(name) for name in names]
    assert len({*scopes}) == len(names) and all(len(name) <= 64 for name in scopes), scopes


def test_a_thread_that_could_not_start_can_be_started_later(
    deployment: Deployment, installed: tagout.Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[object] = []
    thread, own = threading.Thread(target=lambda: ran.append(current_guard())), threading.Thread()
    own.run = lambda: ran.append(current_guard())  # type: ignore[method-assign]
    with tagout.agent(next(deployment.agents)) as guard:
        with monkeypatch.context() as patch:
            patch.setattr(threading, "_start_new_thread", _no_thread, raising=False)
            patch.setattr(threading, "_start_joinable_thread", _no_thread, raising=False)
            for one in (thread, own):
                with pytest.raises(RuntimeError, match="can't start"):
                    one.start()
        for one in (thread, own):
            one.start()
            one.join(PATIENCE_S)
    assert ran == [guard, guard]


def _no_thread(*_arguments: object, **_named: object) -> None:
    raise RuntimeError("can't start new thread")


def test_a_stop_that_is_being_handled_is_not_the_error_of_the_next_call(
    deployment: Deployment, models: Models, installed: tagout.Guard
) -> None:
    client = openai.OpenAI(base_url=f"{models.url}/v1", api_key="none", max_retries=1)
    with tagout.agent(next(deployment.agents)) as other:
        deployment.stop(other.agent)
        wait_for(lambda: refused(other.check)[0], "the stop to arrive")
        error, _ = refused(lambda: _ask(client, "blocked"))
    assert error is not None
    try:
        raise error
    except tagout.TagoutStopped:
        with pytest.raises(openai.InternalServerError):
            _ask(client, "status-fallback-500")
    assert models.requests["status-fallback-500"] == 2, "it was tried again as any failure is"


def _ask(client: openai.OpenAI, model: str) -> object:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}])


def test_a_bad_url_is_told_by_aiohttp_itself(installed: tagout.Guard) -> None:
    async def ask() -> None:
        async with aiohttp.ClientSession() as session:
            await session.get("http://[::1/v1/chat/completions")

    with pytest.raises(aiohttp.InvalidURL):
        asyncio.run(ask())


def test_nothing_is_put_into_sdks_after_it_was_uninstalled(deployment: Deployment, client: tagout.Client, models: Models) -> None:
    guard = tagout.install(next(deployment.agents), client=client)
    work = Work(lambda: httpx.post(models.url + PATH, json={"model": "silent-after"}, timeout=30))
    wait_for(lambda: models.requests["silent-after"] == 1, "the call to be under way")
    tagout.uninstall()
    was = openai._base_client.SyncAPIClient.__dict__["_sleep_for_retry"]
    assert Cut(deployment, guard, work).stopped
    assert openai._base_client.SyncAPIClient.__dict__["_sleep_for_retry"] is was


def test_it_says_what_differs_and_that_nobody_is_enrolled(
    deployment: Deployment, client: tagout.Client, installed: tagout.Guard, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RuntimeError, match=r"with other arguments \(tools\)"):
        tagout.install(installed.agent, client=client, tools=False)
    tagout.uninstall()
    tagout.install("demo/agent_1", client=client)
    assert "enrolled" in caplog.text and "every call will be refused" in caplog.text


@pytest.fixture
def http2_models() -> Iterator[Http2Models]:
    models = Http2Models()
    yield models
    models.end()


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("kind", ["stream", "silent"])
def test_s3_one_stream_of_a_shared_connection_is_cut(
    library: type, kind: str, deployment: Deployment, http2_models: Http2Models, installed: tagout.Guard
) -> None:
    client = library.Client(http1=False, http2=True, timeout=30)
    url = http2_models.url

    def stream(path: str, until: Callable[[], bool]) -> int:
        with client.stream("POST", url + path, content=b"{}") as response:
            for words, _ in enumerate(response.iter_bytes()):
                if until():
                    return words
        raise AssertionError("it has ended")

    enough = threading.Event()
    other = Work(lambda: stream("/other/stream", enough.is_set))
    wait_for(lambda: http2_models.words["/other/stream"] > 3, "another call on the connection")
    path = f"{PATH}/{kind}"
    works: list[Work] = []
    for n in (1, 2):
        # One after the other: httpcore takes a stream's number without a lock.
        works.append(Work(lambda: stream(path, lambda: False)))
        wait_for(lambda: http2_models.requests[path] == n or works[-1].error, "the call to be under way")
    for work in works:
        assert Cut(deployment, installed, work).stopped if work is works[0] else not work.wait()
        assert tagout.find_stop(work.error), repr(work.error)
    wait_for(lambda: http2_models.resets[path] == 2, "the streams to be reset")
    before = http2_models.words["/other/stream"]
    wait_for(lambda: http2_models.words["/other/stream"] > before + 5, "the other call to go on")
    assert other.thread.is_alive()
    enough.set()
    other.wait()
    assert other.error is None and http2_models.connections == 1
    refused(lambda: client.post(url + PATH + "/late", content=b"{}"))
    assert http2_models.requests[PATH + "/late"] == 0


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("kind", ["stream", "silent"])
def test_s3_one_stream_of_a_connection_that_tasks_share_is_cut(
    library: type, kind: str, deployment: Deployment, http2_models: Http2Models, installed: tagout.Guard
) -> None:
    path = f"{PATH}/{kind}"

    async def main() -> None:
        async with library.AsyncClient(http1=False, http2=True, timeout=30) as client:

            async def stream(path: str, until: Callable[[], bool]) -> None:
                async with client.stream("POST", http2_models.url + path, content=b"{}") as response:
                    async for _ in response.aiter_bytes():
                        if until():
                            return
                raise AssertionError("it has ended")

            enough = threading.Event()
            other = asyncio.create_task(stream("/other/stream", enough.is_set))
            await _reached(lambda: http2_models.words["/other/stream"] > 3)
            calls = [asyncio.create_task(stream(path, lambda: False)) for _ in range(2)]
            await _reached(lambda: http2_models.requests[path] == 2)
            await asyncio.to_thread(deployment.stop, installed.agent)
            for error in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(error, tagout.TagoutStopped), repr(error)
            await _reached(lambda: http2_models.resets[path] == 2)
            before = http2_models.words["/other/stream"]
            await _reached(lambda: http2_models.words["/other/stream"] > before + 5)
            enough.set()
            await other
            assert http2_models.connections == 1

    asyncio.run(asyncio.wait_for(main(), 30))


async def _reached(what: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_for, what, "the calls")


def test_a_task_that_is_cancelled_for_another_reason_stays_cancelled(models: Models, installed: tagout.Guard) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.post(models.url + PATH, json={"model": "silent-timeout"}), 0.3)

    asyncio.run(main())
    assert installed.state().calls_under_way == 0


def test_s3_where_a_redirect_leads_is_a_model_call_too(
    deployment: Deployment, models: Models, installed: tagout.Guard
) -> None:
    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(307)
            self.send_header("Location", models.url + PATH)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/elsewhere"

    async def ask_by_aiohttp(model: str) -> object:
        async with aiohttp.ClientSession() as session, session.post(url, json={"model": model}) as answer:
            return await answer.json()

    try:
        assert asyncio.run(ask_by_aiohttp("plain-led")) is not None
        assert installed.state().calls_under_way == 0
        assert Cut(deployment, installed, Work(lambda: asyncio.run(ask_by_aiohttp("silent-led")))).error is not None
        for number, call in enumerate((
            lambda model: asyncio.run(ask_by_aiohttp(model)),
            lambda model: httpx.post(url, json={"model": model}, follow_redirects=True),
            lambda model: requests.post(url, json={"model": model}),
        )):
            assert tagout.find_stop(refused(lambda: call(f"late-{number}"))[0])
            assert models.requests[f"late-{number}"] == 0
    finally:
        server.shutdown()
        server.server_close()


def test_a_call_that_is_cut_while_it_connects_leaves_no_place_in_the_pool_taken(
    deployment: Deployment, client: tagout.Client, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    tagout.install(next(deployment.agents), client=client)
    try:
        pooled = httpx.Client(limits=httpx.Limits(max_connections=1), timeout=5)
        with monkeypatch.context() as patched:
            patched.setattr(Flight, "holds", lambda *_: (_ for _ in ()).throw(tagout.TagoutStopped("cut")))
            assert tagout.find_stop(refused(lambda: ask(pooled, models, "plain"))[0])
        assert ask(pooled, models, "plain")
    finally:
        tagout.uninstall()


def test_a_call_is_over_when_its_answer_is_dropped(models: Models, installed: tagout.Guard) -> None:
    client = httpx.Client()
    request = client.build_request("POST", models.url + PATH, json={"model": "stream-dropped", "stream": True})
    answer = client.send(request, stream=True)
    assert answer.status_code == 200 and installed.state().calls_under_way == 1
    del answer, client
    gc.collect()
    assert installed.state().calls_under_way == 0


def test_everything_is_put_back(
    deployment: Deployment, client: tagout.Client, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners: list[tuple[type, str, object]] = []
    wrap = Patches.wrap

    def noting(patches: Patches, owner: type, name: str, wrapper: Callable[..., object]) -> None:
        owners.append((owner, name, owner.__dict__.get(name)))
        wrap(patches, owner, name, wrapper)

    monkeypatch.setattr(Patches, "wrap", noting)
    agent = next(deployment.agents)
    tagout.install(agent, client=client)
    changed = [(owner, name) for owner, name, was in owners if owner.__dict__.get(name) is not was]
    assert len(changed) > 20
    deployment.stop(agent)
    assert refused(lambda: openai.OpenAI(base_url=models.url, api_key="x").models.list())[0] is None
    assert refused(lambda: httpx.post(models.url + PATH, json={"model": "x"}))[0]
    tagout.uninstall()
    assert [(owner, name) for owner, name, was in owners if owner.__dict__.get(name) is not was] == []
    assert httpx.post(models.url + PATH, json={"model": "plain-after"}).status_code == 200


def test_it_fails_closed_without_an_agent_or_configuration(
    deployment: Deployment, client: tagout.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = http.client.HTTPConnection.send, aiohttp.ClientSession._request
    monkeypatch.delenv("TAGOUT_AGENT", raising=False)
    with pytest.raises(ValueError, match="TAGOUT_AGENT"):
        tagout.install(client=client)
    for name in deployment.settings:
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match="TAGOUT_PROFILE"):
        tagout.install("demo/agent_2")
    assert (http.client.HTTPConnection.send, aiohttp.ClientSession._request) == before
    with pytest.raises(RuntimeError, match="not installed"), tagout.agent("demo/agent_2"):
        pass


def test_installed_twice_it_is_the_same_or_refused(
    deployment: Deployment, client: tagout.Client, installed: tagout.Guard
) -> None:
    assert tagout.install(installed.agent, client=client) is installed
    with pytest.raises(RuntimeError, match="installed already"):
        tagout.install(next(deployment.agents), client=client)
    with pytest.raises(RuntimeError, match="installed already"):
        tagout.install(installed.agent, client=client, hosts=["models.example"])


@pytest.mark.parametrize(
    ("host", "path", "is_one"),
    [
        ("api.openai.com", "/v1/models", True),
        ("API.Anthropic.com", "/anything", True),
        ("mine.openai.azure.com", "/x", True),
        ("bedrock-runtime.eu-west-1.amazonaws.com", "/model/x/invoke", True),
        ("europe-west1-aiplatform.googleapis.com", "/v1/x", True),
        ("localhost", "/v1/chat/completions?x=1", True),
        ("localhost", "/v1/responses/r1", True),
        ("localhost", "/v1/messages", True),
        ("localhost", "/v1/embeddings", True),
        ("localhost", "/api/chat", True),
        ("localhost", "/v1beta/models/gemini:streamGenerateContent?alt=sse", True),
        ("notapi.openai.com.example", "/v1/models", False),
        ("example.com", "/v1/messages-of-the-day", False),
        ("example.com", "/my/responses", False),
        ("proxy.example", "/responses", True),
        ("::1", "/x", True),
        ("s3.eu-west-1.amazonaws.com", "/x", False),
        ("models.example", "/x", True),
        ("sub.below.example", "/x", True),
        ("example.org", "/ask/me", True),
        ("node.example", "/v1/chat/completions", False),
    ],
)
def test_which_requests_are_model_calls(host: str, path: str, is_one: bool) -> None:
    endpoints = Endpoints(
        hosts=("models.example", ".below.example", "[::1]:7470"), paths=(r"/ask/",), nodes=("https://node.example:7470",)
    )
    assert endpoints.match(host, 7470, path) is is_one


def test_a_predicate_decides_instead(deployment: Deployment, client: tagout.Client, models: Models) -> None:
    agent = next(deployment.agents)
    tagout.install(agent, client=client, predicate=lambda _host, _port, path: path.startswith("/mine"))
    try:
        deployment.stop(agent)
        assert httpx.post(models.url + PATH, json={"model": "plain"}).status_code == 200
        assert isinstance(refused(lambda: httpx.post(models.url + "/mine", json={"model": "mine"}))[0], tagout.TagoutStopped)
        assert models.requests["mine"] == 0
    finally:
        tagout.uninstall()
