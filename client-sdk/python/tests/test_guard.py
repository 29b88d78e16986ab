"""What a guard says, and what it says it with."""

from __future__ import annotations

import asyncio
import pickle
import sys
import threading
from pathlib import Path

import pytest

import tagout
from deployment import PATIENCE_S, Deployment, wait_for
from tagout import TagoutStopped, find_stop


def test_s4_nothing_begins_before_a_node_has_answered(client: tagout.Client, deployment: Deployment) -> None:
    with deployment.silent():
        guard = client.guard("demo/agent_2/before")
        with pytest.raises(TagoutStopped) as refused:
            guard.check()
    assert (refused.value.code, refused.value.is_lapse, refused.value.cut) == ("not_ready", True, False)
    assert guard.ready(PATIENCE_S).enabled
    guard.check()


def test_s4_without_a_node_nothing_ever_begins(deployment: Deployment) -> None:
    guard = tagout.Client(nodes=["https://127.0.0.1:9"]).guard("demo/agent_2/alone")
    with pytest.raises(TagoutStopped, match="no node has answered"):
        guard.ready(0.2)
    with pytest.raises(TagoutStopped, match="no node has answered"):
        guard.check()


def test_a_stop_says_who_and_why_and_what_lifts_it(deployment: Deployment, guard: tagout.Guard) -> None:
    deployment.stop(guard.agent, "--case", "INC-7", reason="policy violation 4.1")
    with pytest.raises(TagoutStopped) as refused:
        guard.check()
    stop = refused.value
    assert (stop.agent, stop.scope, stop.code, stop.kind) == (guard.agent, guard.agent, "stopped", "halt")
    assert (stop.tag, stop.by, stop.case) == ("policy violation 4.1", ("alice",), "INC-7")
    assert stop.since is not None and stop.since.tzinfo is not None
    assert stop.lifted_by == "a signed release and then a signed start that name it"
    assert stop.lock_id is not None and len(stop.lock_id) == 64 and stop.lock_id[:12] in str(stop)
    assert not (stop.is_lapse or stop.cut or stop.released) and stop.retry_after is None
    state = guard.state()
    assert not state.enabled and state.stopped is not None and state.stopped.lock_id == stop.lock_id

    for begin in (guard.call, guard.acquire, guard.protect(lambda: pytest.fail("it ran")), guard.__enter__):
        with pytest.raises(TagoutStopped):
            begin()

    deployment.resume(guard.agent)
    asyncio.run(asyncio.wait_for(guard.wait_enabled(), PATIENCE_S))
    guard.check()
    assert guard.state().enabled and guard.state().left > 0


def test_a_stop_survives_pickling() -> None:
    stop = TagoutStopped("no", agent="a", reason="r", code="stopped", by=["alice"], since_ms=1_795_359_600_000)
    copy = pickle.loads(pickle.dumps(stop))
    assert (type(copy), str(copy), vars(copy)) == (TagoutStopped, "no", vars(stop))
    assert copy.since.isoformat() == "2026-11-22T15:00:00+00:00"


def test_a_stop_is_found_in_what_frameworks_make_of_it() -> None:
    stop = TagoutStopped("no")

    def chained(how: str) -> Exception:
        try:
            try:
                raise stop
            except TagoutStopped as error:
                if how == "cause":
                    raise KeyError("wrapped") from error
                if how == "context":
                    raise KeyError("wrapped")
                raise KeyError("wrapped", error) from None
        except KeyError as error:
            return error

    assert find_stop(stop) is stop
    for how in ("cause", "context", "argument"):
        assert find_stop(chained(how)) is stop
    if sys.version_info >= (3, 11):
        group = ExceptionGroup("two", [ValueError(), ExceptionGroup("one", [chained("cause")])])
        assert find_stop(group) is stop
    circle = ValueError()
    circle.args = (circle,)
    circle.__context__ = KeyError()
    circle.__context__.__context__ = circle
    assert find_stop(circle) is None and find_stop(None) is None


def test_essential_calls_go_on_under_a_restriction(deployment: Deployment, guard: tagout.Guard) -> None:
    undo = guard.essential("undo")
    with pytest.raises(TagoutStopped, match="no grant that holds names") as refused:
        undo.check()
    assert refused.value.code == "not_essential"
    grant = ["grant", guard.agent, "--for", "1h", "--essential", "undo", "--reason", "a test"]
    deployment.cli(*grant, signers=("alice", "bob"))
    wait_for(lambda: guard.state().essential == ["undo"], "the grant")
    deployment.stop(guard.agent, action="restrict")
    with pytest.raises(TagoutStopped) as refused:
        guard.check()
    assert refused.value.kind == "restrict"
    undo.check()
    undo.acquire()
    assert undo.protect(lambda: 7)() == 7
    assert (undo.agent, asyncio.run(undo.run(asyncio.sleep(0, 8)))) == (guard.agent, 8)
    deployment.stop(guard.agent)
    with pytest.raises(TagoutStopped):
        undo.check()


def test_s7_a_throttle_says_when_to_come_back(deployment: Deployment, guard: tagout.Guard) -> None:
    deployment.stop(guard.agent, "--calls-per-minute", "2", action="throttle")
    wait_for(lambda: guard.state().share_of_calls == 2, "the throttle")
    guard.acquire()
    with guard:
        pass
    for begin in (guard.acquire, guard.call, guard.protect(lambda: pytest.fail("it ran"))):
        with pytest.raises(TagoutStopped) as refused:
            begin()
        assert refused.value.code == "throttled"
        assert refused.value.retry_after is not None and 0 < refused.value.retry_after <= 62
    guard.check()


def test_a_trip_stops_the_agent_and_people_restart_it(deployment: Deployment, guard: tagout.Guard) -> None:
    call = guard.call()
    lock = guard.trip("it talks to itself")
    with pytest.raises(TagoutStopped, match="it talks to itself") as cut:
        call.check()
    assert cut.value.cut and cut.value.lock_id == lock
    call.close()
    assert call.stopped is not None and call.stopped.lock_id == lock
    wait_for(lambda: lock[:12] in deployment.cli("status", signers=()), "the service to know")


def test_callbacks_are_told_once_of_every_stop(deployment: Deployment, guard: tagout.Guard) -> None:
    told: list[tuple[str | None, bool]] = []

    def tell(stop: TagoutStopped) -> None:
        told.append((stop.tag, threading.current_thread() is threading.main_thread()))
        raise ValueError("a callback's fault is nobody else's")

    guard.on_stop(tell)
    closed = guard.on_stop(lambda stop: pytest.fail("it is closed"))
    closed.close()
    deployment.stop(guard.agent, reason="one")
    wait_for(lambda: told == [("one", False)], "the first")
    deployment.resume(guard.agent)
    wait_for(lambda: guard.state().enabled, "the restart")
    deployment.stop(guard.agent, reason="two")
    wait_for(lambda: told == [("one", False), ("two", False)], "the second")
    late: list[str | None] = []
    guard.on_stop(lambda stop: late.append(stop.tag))
    wait_for(lambda: late == ["two"], "one who comes late")


def test_a_file_and_the_programs_own_configuration_are_told_apart(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    genesis = (deployment.dev / "genesis.json").read_bytes()
    assert tagout.Client(genesis=genesis, ca=(deployment.dev / "ca.pem").read_bytes()).deployment.startswith("demo:")
    with pytest.raises(OSError, match="no-such-file"):
        tagout.Client(genesis=tmp_path / "no-such-file")
    with pytest.raises(ValueError, match="64 hex digits"):
        tagout.Client(pinned="demo")
    with pytest.raises(ValueError, match="a guard is for one agent"):
        tagout.Client().guard("*")
    with pytest.raises(TypeError):
        tagout.Client("https://127.0.0.1")  # type: ignore[misc]
    monkeypatch.setenv("TAGOUT_PROFILE", "")
    with pytest.raises(ValueError, match="no genesis is given"):
        tagout.Client()


def test_a_profile_says_what_is_not_said_one_by_one(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_profile = tagout.Client()
    assert of_profile.nodes == [deployment.node]
    monkeypatch.delenv("TAGOUT_PROFILE")
    monkeypatch.setenv("TAGOUT_NODES", f" {deployment.node}, ")
    monkeypatch.setenv("TAGOUT_CA", str(deployment.dev / "ca.pem"))
    monkeypatch.setenv("TAGOUT_GENESIS", str(deployment.dev / "genesis.json"))
    monkeypatch.setenv("TAGOUT_PINNED", of_profile.deployment)
    one_by_one = tagout.Client()
    assert one_by_one.nodes == [deployment.node]
    one_by_one.guard(next(deployment.agents)).ready(PATIENCE_S)

    profile = tmp_path / "profile.toml"
    profile.write_text('deployment = "x"\nca = "none.pem"\ngenesis = "none.json"\nnodes = ["https://127.0.0.1:1"]\n')
    assert tagout.Client(profile=profile).nodes == [deployment.node], "what is said has precedence"
    monkeypatch.delenv("TAGOUT_GENESIS")
    with pytest.raises(OSError, match="none.json"):
        tagout.Client(profile=profile)
    profile.write_text("nodes = 1\n")
    with pytest.raises(ValueError, match="no profile of a deployment.*line 1"):
        tagout.Client(profile=profile)
    with pytest.raises(OSError, match="no-such"):
        tagout.Client(profile=tmp_path / "no-such")


def test_a_stop_in_the_folder_of_stops_needs_no_service(deployment: Deployment, tmp_path: Path) -> None:
    agent = next(deployment.agents)
    guard = tagout.Client(stop_folder=tmp_path).guard(agent)
    guard.ready(PATIENCE_S)
    guard.check()
    deployment.cli("stop", agent, "--reason", "by a file", "--copies", "1", "--out", str(tmp_path))
    wait_for(lambda: not guard.state().enabled, "the file to be found")
    with pytest.raises(TagoutStopped, match="by a file"):
        guard.check()


def test_s3_check_never_lets_go_of_the_gil(guard: tagout.Guard) -> None:
    moved = threading.Event()
    wait_at_most_s = 1_000.0
    before = sys.getswitchinterval()
    try:
        begin, running = threading.Event(), threading.Event()

        def move() -> None:
            running.set()
            begin.wait()
            moved.set()

        mover = threading.Thread(target=move)
        mover.start()
        running.wait()
        # From here on nobody is asked to let go; who does, does it by itself.
        sys.setswitchinterval(wait_at_most_s)
        begin.set()
        for _ in range(100_000):
            guard.check()
        assert not moved.is_set()
    finally:
        sys.setswitchinterval(before)
    mover.join()


def test_s3_a_stop_reaches_every_thread(deployment: Deployment, guard: tagout.Guard) -> None:
    stops: list[TagoutStopped] = []

    def work() -> None:
        try:
            while True:
                guard.check()
        except TagoutStopped as stop:
            stops.append(stop)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    deployment.stop(guard.agent)
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(stops) == 8 and {stop.tag for stop in stops} == {"a test"}
