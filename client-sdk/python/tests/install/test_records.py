"""What records say of model calls, and that nothing that goes wrong with them touches a call."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import http.client
import json
import logging
import multiprocessing
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
import requests
import urllib.request
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tagout
from deployment import PATIENCE_S, Deployment, wait_for
from http2 import Http2Models
from models import Models
from rows import aiohttp_, httpx2_, httpx_, requests_, urllib_
from tagout._install.acting import below
from tagout._install.conventions import model, operation, provider
from tagout._install.installed import Installed
from tagout.records import JsonLines, Record, Spans, failures
from world import Cut, Work, models, refused  # noqa: F401

PATH = "/v1/chat/completions"
SECRET = "the launch code is 0000"
ROWS = {"httpx": httpx_, "httpx2": httpx2_, "aiohttp": aiohttp_, "requests": requests_, "urllib": urllib_}
WAYS = [(row, way) for row, module in ROWS.items() for way in module.calls("http://127.0.0.1:9")]

Install = Callable[..., tagout.Guard]


@pytest.fixture
def install(deployment: Deployment, client: tagout.Client) -> Iterator[Install]:
    yield lambda records: tagout.install(next(deployment.agents), client=client, records=records)
    tagout.uninstall()


@pytest.fixture
def taken() -> list[Record]:
    return []


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("ascii").splitlines()]


def body_of(model: str, **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": SECRET}], **more}


def ask(models: Models, model: str = "plain", **more: object) -> httpx.Response:
    return httpx.post(models.url + PATH, json=body_of(model, **more))


@pytest.mark.parametrize(("row", "way"), WAYS)
def test_each_library_call_has_one_record(
    row: str, way: str, deployment: Deployment, models: Models, install: Install, file: Path
) -> None:
    guard = install(str(file))
    number = f"{row}-{way.replace(' ', '-')}"
    call = ROWS[row].calls(models.url)[way]
    sent_before = len(models.bodies)
    before = datetime.now(timezone.utc)
    call(f"plain-{number}")
    wait_for(lambda: len(lines(file)) == 1, "the record")
    (permitted,) = lines(file)
    assert permitted["tagout.decision"] == "permitted" and "error.type" not in permitted
    assert permitted["gen_ai.agent.id"] == guard.agent
    assert permitted["gen_ai.operation.name"] == "chat" and permitted["gen_ai.provider.name"] == "openai"
    assert permitted["gen_ai.request.model"] == f"plain-{number}"
    assert permitted.get("gen_ai.request.stream", False) is ("stream" in way)
    assert f"http://{permitted['server.address']}:{permitted['server.port']}" == models.url
    assert (permitted["http.request.method"], permitted["url.path"]) == ("POST", PATH)
    assert permitted["http.response.status_code"] == 200
    assert permitted["tagout.prompt.sha256"] == hashlib.sha256(models.bodies[sent_before]).hexdigest()
    assert permitted["http.request.body.size"] == len(models.bodies[sent_before])
    assert permitted["http.response.body.size"] == models.answered[f"plain-{number}"]
    assert 0 < permitted["gen_ai.response.time_to_first_chunk"] * 1000 <= permitted["tagout.duration_ms"]
    assert permitted["time"].endswith("Z") and len(permitted["time"]) == len("2026-11-28T22:21:26.123Z")
    began = datetime.fromisoformat(permitted["time"].replace("Z", "+00:00"))
    assert abs((began - before).total_seconds()) < PATIENCE_S

    endless = f"{'stream' if 'stream' in way else 'silent'}-{number}"
    work = Work(lambda: call(endless))
    under_way = models.words if "stream" in way else models.requests
    wait_for(lambda: under_way[endless] or work.error, "the call to be under way")
    assert Cut(deployment, guard, work).stopped
    wait_for(lambda: len(lines(file)) == 2, "the record")
    cut = lines(file)[1]
    assert cut["tagout.decision"] == "cut" and cut["error.type"] == "tagout.TagoutStopped"
    assert ("http.response.status_code" in cut) is ("stream" in way)

    stopped = tagout.find_stop(refused(lambda: call(f"late-{number}"))[0])
    assert stopped is not None
    assert len(lines(file)) == 3
    late = lines(file)[2]
    assert late["tagout.decision"] == "refused" and late["error.type"] == "tagout.TagoutStopped"
    assert late["gen_ai.request.model"] == f"late-{number}"
    assert late["http.request.body.size"] > 0 and len(late["tagout.prompt.sha256"]) == 64
    assert "http.response.status_code" not in late and "http.response.body.size" not in late
    for record in (cut, late):
        assert record["tagout.stop.code"] == stopped.code == "stopped"
        assert record["tagout.stop.lock_id"] == stopped.lock_id
        assert record["tagout.stop.scope"] == guard.agent and record["tagout.stop.kind"] == "halt"


def test_the_case_is_recorded(deployment: Deployment, models: Models, install: Install, file: Path) -> None:
    guard = install(file)
    deployment.stop(guard.agent, "--case", "INC-7")
    assert refused(lambda: ask(models, "late-case"))[0]
    assert lines(file)[0]["tagout.stop.case"] == "INC-7"


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_streams_of_a_shared_connection_have_records_of_their_own(
    library: Any, deployment: Deployment, install: Install, file: Path
) -> None:
    guard = install(file)
    models = Http2Models()
    try:
        client = library.Client(http1=False, http2=True, timeout=30)

        def stream() -> None:
            with client.stream("POST", f"{models.url}{PATH}/stream", content=b'{"model":"m2"}') as answer:
                for _ in answer.iter_bytes():
                    pass

        work = Work(stream)
        wait_for(lambda: models.words[f"{PATH}/stream"] > 3, "the stream")
        with client.stream("POST", f"{models.url}/v1/responses/stream", content=b'{"model":"m1"}') as answer:
            next(answer.iter_bytes())
        assert Cut(deployment, guard, work).stopped
        wait_for(lambda: len(lines(file)) == 2, "the records")
        assert [(line["gen_ai.request.model"], line["tagout.decision"]) for line in lines(file)] == [
            ("m1", "permitted"),
            ("m2", "cut"),
        ]
        assert lines(file)[1]["http.response.body.size"] >= 3 * len("word ")
    finally:
        models.end()


@pytest.mark.parametrize("row", ["httpx", "httpx2", "aiohttp", "requests"])
def test_a_compressed_answer_is_as_long_as_it_came(
    row: str, models: Models, install: Install, taken: list[Record]
) -> None:
    install(taken.append)
    for way, call in ROWS[row].calls(models.url).items():
        if "stream" not in way:
            model = f"gzip-{row}-{way}"
            call(model)
            assert taken[-1].attributes["http.response.body.size"] == models.answered[model] > 0


def test_others_recompute_the_hash_of_what_the_server_received(
    models: Models, install: Install, file: Path, tmp_path: Path
) -> None:
    install(file)
    ask(models, "plain-hashed", note="ünïcode ☃", temperature=0.1)
    received = tmp_path / "received"
    received.write_bytes(models.bodies[-1])
    digest = lines(file)[0]["tagout.prompt.sha256"]
    for command in (["sha256sum", str(received)], ["openssl", "dgst", "-sha256", "-r", str(received)]):
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0] == digest
    parsed = subprocess.run(["python3", "-m", "json.tool", "--json-lines", str(file)], capture_output=True, check=True)
    assert digest in parsed.stdout.decode()


def test_prompts_are_stored_only_if_asked(models: Models, install: Install, file: Path) -> None:
    install(file)
    ask(models)
    assert refused(lambda: httpx.post("http://127.0.0.1:9" + PATH, json=body_of("x")))[0]
    assert len(lines(file)) == 2 and SECRET not in file.read_text() and "messages" not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert SECRET not in repr(Record(0, 0, {}, SECRET.encode()))
    tagout.uninstall()

    install(JsonLines(file, prompts=True))
    ask(models, "plain-\u2028")
    httpx.post(models.url + PATH, content=b"\xff{}")
    _, _, text, binary = lines(file)
    assert hashlib.sha256(text["tagout.prompt"].encode()).hexdigest() == text["tagout.prompt.sha256"]
    assert SECRET in text["tagout.prompt"]
    assert binary["tagout.prompt.base64"] == "/3t9" and binary["tagout.prompt.unread"] == "not JSON"


def test_what_is_long_is_cut_and_what_is_large_is_not_read(
    models: Models, install: Install, taken: list[Record]
) -> None:
    install(JsonLinesOf(taken))
    with below("Critic", **{"gen_ai.conversation.id": "c" * 1000}) as guard:
        ask(models, "plain" + "m" * 1000)
    agent = taken[0].attributes
    assert agent["gen_ai.agent.id"] == guard.agent and agent["gen_ai.agent.name"] == "Critic"
    assert agent["gen_ai.conversation.id"] == "c" * 256 and len(str(agent["gen_ai.request.model"])) == 256
    ask(models, "plain-large", padding="x" * (5 * 1024 * 1024))
    large = taken[1]
    assert large.prompt is None and large.attributes["tagout.prompt.unread"] == "too large"
    assert large.attributes["tagout.prompt.sha256"] == hashlib.sha256(models.bodies[-1]).hexdigest()
    assert "gen_ai.request.model" not in large.attributes
    httpx.post(models.url + PATH, content=iter([b'{"model":', b'"plain-parts"}']))
    assert taken[2].attributes["tagout.prompt.unread"] == "streamed"
    httpx.get(models.url + "/v1/responses/r1")
    assert "tagout.prompt.sha256" not in taken[3].attributes
    httpx.post(models.url + PATH, content=b"[" * 100_000)
    assert taken[4].attributes["tagout.prompt.unread"] == "not JSON"


class JsonLinesOf:
    """Keeps records, to be looked at."""

    def __init__(self, taken: list[Record]) -> None:
        self.taken = taken

    def __call__(self, record: Record) -> None:
        self.taken.append(record)


def test_a_call_that_fails_was_permitted_and_says_by_what_it_failed(
    models: Models, install: Install, taken: list[Record]
) -> None:
    install(taken.append)
    url = "http://127.0.0.1:9" + PATH

    async def by_aiohttp(model: str, timeout_s: float = 30) -> None:
        timeout = aiohttp.ClientTimeout(timeout_s)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.post(url if model == "x" else models.url + PATH, json=body_of(model, stream=True)) as answer:
                await answer.read()

    for call, error in (
        (lambda: httpx.post(url, json={}), "httpcore.ConnectError"),
        (lambda: requests.post(url, json={}), "ConnectionRefusedError"),
        (lambda: asyncio.run(by_aiohttp("x")), "aiohttp.client_exceptions.ClientConnectorError"),
        (lambda: httpx.post(models.url + PATH, json=body_of("silent-t"), timeout=0.2), "httpcore.ReadTimeout"),
        (lambda: asyncio.run(by_aiohttp("broken")), "aiohttp.client_exceptions.ClientPayloadError"),
        (lambda: httpx.post(models.url + PATH, json=body_of("broken", stream=True)), "httpcore.RemoteProtocolError"),
    ):
        assert refused(call)[0] is not None
        assert taken[-1].attributes["tagout.decision"] == "permitted"
        # urllib3 says it in a way of its own where it connects.
        assert str(taken[-1].attributes["error.type"]).endswith(error) or "NewConnectionError" in str(taken[-1].attributes)
    assert len(taken) == 6
    httpx.post(models.url + PATH, json=body_of("status-429"))
    assert (taken[-1].attributes["http.response.status_code"], taken[-1].attributes["error.type"]) == (429, "429")


def test_an_answer_that_nobody_reads_is_recorded_when_it_is_collected(
    models: Models, install: Install, taken: list[Record]
) -> None:
    lock = threading.Lock()

    def take(record: Record) -> None:
        assert lock.acquire(timeout=PATIENCE_S / 6)
        taken.append(record)
        lock.release()

    guard = install(take)
    client = httpx.Client()
    request = client.build_request("POST", models.url + PATH, json=body_of("stream-unread", stream=True))
    answer = client.send(request, stream=True)
    assert answer.status_code == 200 and taken == []
    with lock:  # As of an exporter that the collector interrupts.
        del answer, client, request
        gc.collect()
    wait_for(lambda: taken, "the record")
    assert guard.state().calls_under_way == 0
    assert taken[0].attributes["http.response.status_code"] == 200
    assert taken[0].attributes["http.response.body.size"] == 0


def test_a_call_is_over_before_its_record_is_taken(
    deployment: Deployment, models: Models, install: Install
) -> None:
    under_way: list[int] = []
    guard = install(lambda _record: under_way.append(guard.state().calls_under_way))
    ask(models)
    work = Work(lambda: ask(models, "silent-over"))
    wait_for(lambda: models.requests["silent-over"] == 1, "the call to be under way")
    assert Cut(deployment, guard, work).stopped
    assert under_way == [0, 0]


def test_what_a_program_leaves_unread_is_recorded_when_it_ends(
    deployment: Deployment, models: Models, file: Path
) -> None:
    program = deployment.python(UNREAD, next(deployment.agents), models.url, str(file))
    _, errors = program.communicate(timeout=PATIENCE_S)
    assert program.returncode == 0 and errors == ""
    assert [line["gen_ai.request.model"] for line in lines(file)] == ["stream-unread-to-the-end"]


UNREAD = """
import sys, httpx, tagout
agent, url, file = sys.argv[1:]
tagout.install(agent, records=file)
request = httpx.Request("POST", url + "/v1/chat/completions", json={"model": "stream-unread-to-the-end", "stream": True})
answer = httpx.Client().send(request, stream=True)
"""


def test_redirected_calls_are_recorded_where_they_lead(
    models: Models, install: Install, taken: list[Record]
) -> None:
    install(taken.append)

    async def by_aiohttp() -> None:
        url = f"{models.url}/to{PATH.replace('/chat/completions', '/elsewhere')}"
        async with aiohttp.ClientSession() as session, session.post(url, json=body_of("plain-led")) as answer:
            await answer.read()

    asyncio.run(by_aiohttp())
    assert [record.attributes["url.path"] for record in taken] == [PATH]
    about = taken[0].attributes
    assert about["http.response.status_code"] == 200 and about["http.response.body.size"] == models.answered["plain-led"]
    assert about["tagout.prompt.sha256"] == hashlib.sha256(models.bodies[-1]).hexdigest()


def test_a_redirect_that_was_followed_is_no_failure(models: Models, install: Install, taken: list[Record]) -> None:
    install(taken.append)

    async def by_aiohttp() -> None:
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{models.url}/to{PATH}", json=body_of("plain-led-on")) as answer:
                await answer.read()

    asyncio.run(by_aiohttp())
    about = taken[-1].attributes
    assert about["http.response.status_code"] == 200 and "error.type" not in about, about


@pytest.mark.parametrize("path", [PATH, "/elsewhere"])
def test_where_a_redirect_leads_may_fail(path: str, models: Models, install: Install, taken: list[Record]) -> None:
    install(taken.append)

    async def by_aiohttp() -> None:
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{models.url}/to{path}", json=body_of("broken-led-on")) as answer:
                await answer.read()

    assert isinstance(refused(lambda: asyncio.run(by_aiohttp()))[0], aiohttp.ClientPayloadError)
    about = taken[-1].attributes
    assert about["http.response.status_code"] == 200
    assert about["error.type"] == "aiohttp.client_exceptions.ClientPayloadError"


def test_a_path_that_cannot_be_opened_is_an_error_at_once(
    deployment: Deployment, client: tagout.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, send = next(deployment.agents), http.client.HTTPConnection.send
    for wrong, error in ((tmp_path / "none" / "x", OSError), (tmp_path, OSError), (7, TypeError), (wait_async, TypeError)):
        with pytest.raises(error):
            tagout.install(agent, client=client, records=wrong)  # type: ignore[arg-type]
    monkeypatch.setenv("TAGOUT_RECORDS", str(tmp_path / "none" / "x"))
    with pytest.raises(OSError):
        tagout.install(agent, client=client)
    assert http.client.HTTPConnection.send is send
    monkeypatch.setenv("TAGOUT_RECORDS", str(tmp_path / "x"))
    try:
        guard = tagout.install(agent, client=client)
        assert tagout.install(agent, client=client, records=str(tmp_path / "x")) is guard
        with pytest.raises(RuntimeError, match="installed already"):
            tagout.install(agent, client=client, records=str(tmp_path / "y"))
    finally:
        tagout.uninstall()


async def wait_async(_record: Record) -> None: ...


def raising(_given: object) -> list[str]:
    raise ZeroDivisionError("a detector of the user's own")


def test_s3_nothing_that_goes_wrong_with_a_record_touches_a_call(
    deployment: Deployment, models: Models, install: Install, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(_record: Record) -> None:
        raise OSError("gone")

    (file.parent / "folder").mkdir()
    moved = JsonLines(file.parent / "folder" / "calls.jsonl")
    (file.parent / "folder" / "calls.jsonl").unlink()
    (file.parent / "folder").rmdir()
    for number, records in enumerate(("/dev/full", JsonLines(file, detector=raising), raising, gone, moved)):
        guard = install(records)
        before = failures()
        caplog.clear()
        for _ in range(3):
            assert ask(models).status_code == 200
        model = f"silent-failing-{number}"
        work = Work(lambda: ask(models, model))
        wait_for(lambda: models.requests[model] == 1, "the call to be under way")
        assert Cut(deployment, guard, work).stopped
        assert tagout.find_stop(refused(lambda: ask(models, "late-failing"))[0])
        assert models.requests["late-failing"] == 0 and guard.state().calls_under_way == 0
        assert failures() == before + 5
        assert [record.name for record in caplog.records if record.levelno == logging.ERROR] == ["tagout"]
        tagout.uninstall()
    assert [line["tagout.decision"] for line in lines(file)] == ["permitted"] * 3 + ["cut", "refused"]
    assert all("tagout.topics" not in line for line in lines(file))


def test_a_line_that_did_not_fit_tears_no_other(
    models: Models, install: Install, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(file)
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda to, data: write(to, data[:10]) if data[:1] == b"{" else write(to, data))
        ask(models)
    ask(models, "plain-whole")
    torn, whole = file.read_text().splitlines()
    assert len(torn) == 10 and json.loads(whole)["gen_ai.request.model"] == "plain-whole"


@pytest.mark.parametrize("kind", [asyncio.CancelledError, SystemExit, type("Panic", (BaseException,), {})])
def test_whatever_is_raised_there_touches_no_call(kind: type[BaseException], models: Models, install: Install, file: Path) -> None:
    def detector(_prompt: bytes) -> list[str]:
        raise kind

    failed = tagout.records.failures()
    install(JsonLines(file, detector=detector))
    ask(models)
    assert tagout.records.failures() == failed + 1
    assert len(lines(file)) == 1


def test_a_text_is_one_topic(models: Models, install: Install, file: Path) -> None:
    install(JsonLines(file, detector=lambda _prompt: "pii"))
    ask(models)
    assert lines(file)[0]["tagout.topics"] == ["pii"]


def test_topics_are_what_a_detector_gives_and_its_own_calls_are_guarded_but_not_recorded(
    deployment: Deployment, models: Models, install: Install, file: Path
) -> None:
    def detector(prompt: bytes) -> list[str]:
        try:
            ask(models, "plain-detector")
        except tagout.TagoutStopped:
            return ["stopped"]
        return ["weapons", "t" * 1000] if b"launch" in prompt else []

    guard = install(JsonLines(file, detector=detector))
    ask(models)
    asked = models.requests["plain-detector"]
    assert asked == 1
    deployment.stop(guard.agent)
    assert refused(lambda: ask(models, "late-topics"))[0]
    assert [line["tagout.topics"] for line in lines(file)] == [["weapons", "t" * 256], ["stopped"]]
    assert models.requests["plain-detector"] == asked


WRITING = """
import sys, httpx, tagout
agent, url, file, model = sys.argv[1:]
tagout.install(agent, records=file)
sys.stdin.readline()
for number in range(50):
    httpx.post(url + "/v1/chat/completions", json={"model": f"{model}-{number}", "messages": ["x" * 3000]})
"""


def test_processes_and_forks_share_a_file_and_no_line_is_torn(
    deployment: Deployment, models: Models, install: Install, file: Path
) -> None:
    agent = next(deployment.agents)
    others = [deployment.python(WRITING, agent, models.url, str(file), f"plain-{name}") for name in "ab"]
    install(file)
    request = httpx.Request("POST", models.url + PATH, json=body_of("stream-of-the-parent", stream=True))
    under_way = httpx.Client().send(request, stream=True)
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=_write_in_child, args=(models.url, under_way))
    child.start()
    for other in others:
        other.communicate("go\n", timeout=PATIENCE_S)
        assert other.returncode == 0
    child.join(PATIENCE_S)
    assert child.exitcode == 0
    told = [line["gen_ai.request.model"] for line in lines(file)]
    assert sorted(told) == sorted(f"plain-{name}-{number}" for name in "abc" for number in range(50))
    under_way.close()
    assert lines(file)[-1]["gen_ai.request.model"] == "stream-of-the-parent"


def _write_in_child(url: str, under_way: httpx.Response) -> None:
    under_way.close()  # It is the parent's to record.
    for number in range(50):
        httpx.post(url + PATH, json={"model": f"plain-c-{number}", "messages": ["x" * 3000]})


def test_spans_are_made_by_the_conventions(
    deployment: Deployment, models: Models, install: Install
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    guard = install(Spans(provider, detector=lambda _prompt: ["one", "two"]))
    tracer = provider.get_tracer("a test")
    with tracer.start_as_current_span("the agent's step") as step:
        with httpx.Client().stream("POST", models.url + PATH, json=body_of("plain-span", stream=True)) as answer:
            with tracer.start_as_current_span("reading"):
                answer.read()
    ask(models, "status-500")
    deployment.stop(guard.agent)
    assert refused(lambda: ask(models, "late-span"))[0]
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"the agent's step", "reading", "chat plain-span", "chat status-500", "chat late-span"}
    call, around = spans["chat plain-span"], spans["the agent's step"]
    assert call.kind is trace.SpanKind.CLIENT and call.status.status_code is trace.StatusCode.UNSET
    assert call.parent is not None and call.parent.span_id == step.get_span_context().span_id
    assert around.start_time <= call.start_time <= call.end_time <= around.end_time
    about = call.attributes
    assert about["gen_ai.operation.name"] == "chat" and about["gen_ai.agent.id"] == guard.agent
    assert about["tagout.topics"] == ("one", "two") and about["http.response.status_code"] == 200
    assert about["tagout.duration_ms"] == round((call.end_time - call.start_time) / 1e6, 3)
    assert SECRET not in str(dict(about))
    assert spans["chat status-500"].status.status_code is trace.StatusCode.ERROR
    late = spans["chat late-span"]
    assert late.status.status_code is trace.StatusCode.ERROR and late.parent is None
    assert late.attributes["error.type"] == "tagout.TagoutStopped"


def test_calls_of_tasks_at_once_are_told_apart(models: Models, install: Install, taken: list[Record]) -> None:
    install(taken.append)

    async def main() -> None:
        async with httpx.AsyncClient() as one, aiohttp.ClientSession() as two:

            async def by_aiohttp(model: str) -> None:
                async with two.post(models.url + PATH, json=body_of(model, stream=True)) as answer:
                    await answer.read()

            calls = [one.post(models.url + PATH, json=body_of(f"plain-httpx-{n}", stream=True)) for n in range(10)]
            await asyncio.gather(*calls, *(by_aiohttp(f"plain-aiohttp-{n}") for n in range(10)))

    asyncio.run(main())
    told = {str(record.attributes["gen_ai.request.model"]): record.attributes for record in taken}
    assert len(taken) == len(told) == 20
    assert {name: about["http.response.body.size"] for name, about in told.items()} == {
        name: models.answered[name] for name in told
    }


def test_what_neither_began_nor_was_refused_has_no_record(
    models: Models, install: Install, taken: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(taken.append)
    with monkeypatch.context() as broken:
        broken.setattr(Installed, "guard_of", raising_guard)
        assert isinstance(refused(lambda: ask(models, "late-broken"))[0], ValueError)
    ask(models, "plain-after")
    assert [record.attributes["gen_ai.request.model"] for record in taken] == ["plain-after"]
    assert models.requests["late-broken"] == 0


def raising_guard(_installed: object, _agent: str) -> tagout.Guard:
    raise ValueError("no such scope")


def test_uninstall_records_what_is_under_way_and_nothing_more(
    models: Models, install: Install, taken: list[Record]
) -> None:
    install(taken.append)
    with httpx.stream("POST", models.url + PATH, json=body_of("plain-under-way", stream=True)) as answer:
        tagout.uninstall()
        ask(models, "plain-later")
        answer.read()
    assert [record.attributes["gen_ai.request.model"] for record in taken] == ["plain-under-way"]


@pytest.mark.parametrize(
    ("host", "path", "named"),
    [
        ("api.openai.com", "/v1/chat/completions", ("chat", "openai", None)),
        ("eu.api.openai.com", "/v1/responses", ("chat", "openai", None)),
        ("api.openai.com", "/v1/models", ("other", "openai", None)),
        ("x.openai.azure.com", "/openai/deployments/d1/embeddings", ("embeddings", "azure.ai.openai", "d1")),
        ("api.anthropic.com", "/v1/messages", ("chat", "anthropic", None)),
        ("localhost", "/v1/messages", ("chat", "anthropic", None)),
        ("localhost", "/v1/completions", ("text_completion", "openai", None)),
        ("localhost", "/api/chat", ("chat", "ollama", None)),
        ("generativelanguage.googleapis.com", "/v1beta/models/g:streamGenerateContent", ("generate_content", "gcp.gemini", "g")),
        ("europe-west1-aiplatform.googleapis.com", "/v1/publishers/x/models/g:rawPredict", ("chat", "gcp.vertex_ai", "g")),
        ("bedrock-runtime.eu-west-1.amazonaws.com", "/model/a.b-v1%3A0/converse", ("chat", "aws.bedrock", "a.b-v1:0")),
        ("bedrock-runtime.eu-west-1.amazonaws.com", "/model/a.b-v1:0/converse", ("chat", "aws.bedrock", "a.b-v1:0")),
        ("notapi.openai.com.example", "/ask", ("other", "other", None)),
    ],
)
def test_names_are_those_of_the_conventions(host: str, path: str, named: tuple[str, str, str | None]) -> None:
    assert (operation(path), provider(host, path), model(path)) == named
