"""Forked children, workers, interpreters: where they begin and how they end."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tagout
from deployment import PATIENCE_S, Deployment, wait_for
from tagout import TagoutStopped

# Gives what programs below print, and that they ended well.
PRELUDE = """
import asyncio, os, sys, threading, time
import tagout
AGENT = sys.argv[1]
client = tagout.Client()
guard = client.guard(AGENT)

def say(*words):
    # In one piece, whoever else writes.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def answer(f, *arguments):
    try:
        return f(*arguments)
    except tagout.TagoutStopped as stop:
        return stop.code
"""


def ended(process: subprocess.Popen[str], said: str = "") -> str:
    """What the rest of its output is."""
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, ""), said + output + errors
    return output


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip() or pytest.fail(f"it ended: {process.communicate(timeout=PATIENCE_S)}")


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_s4_a_forked_child_has_a_client_of_its_own(deployment: Deployment) -> None:
    agent = next(deployment.agents)
    program = deployment.python(
        PRELUDE
        + """
guard.ready(30)
undo = guard.essential("undo")
call = guard.call()
guard.on_stop(lambda stop: say("parent told", stop.tag))
say("parent waits")
sys.stdin.readline()
if os.fork() == 0:
    # What the parent had is of no use here; what stands for it is new.
    say("child", answer(guard.check), answer(guard.call), answer(undo.check))
    say("its parent's call", answer(call.check), answer(call.socket, 0))
    call.close()
    guard.ready(30)
    say("child ready", answer(guard.check), answer(undo.check), guard.state().calls_under_way)
    told = threading.Event()
    guard.on_stop(lambda stop: told.set())
    async def work():
        say("child works")
        await guard.run(asyncio.sleep(1000))
    say("child cut", answer(asyncio.run, work()))
    say("child told", told.wait(30), answer(guard.check), answer(guard.protect(lambda: 1)))
    if os.fork() == 0:
        say("grandchild", answer(guard.check) is None, answer(guard.ready, 30).enabled, answer(guard.check))
        sys.exit()
    os.wait()
    sys.exit()
say("parent", answer(guard.check), answer(call.check), guard.state().calls_under_way)
_, status = os.wait()
say("child ended", status)
"""
        , agent,
    )
    assert line(program) == "parent waits"
    with deployment.silent():
        go_on(program)
        assert {line(program) for _ in range(3)} == {
            "parent None None 1",
            "child not_ready not_ready not_ready",
            "its parent's call forked_child forked_child",
        }
    assert {line(program) for _ in range(2)} == {"child ready None not_essential 0", "child works"}
    deployment.cli("stop", agent, "--reason", "both", "--no-wait")
    assert set(ended(program).splitlines()) == {
        "parent told both",
        "child cut stopped",
        "child told True stopped stopped",
        "grandchild False False stopped",
        "child ended 0",
    }


def test_s4_a_child_that_cannot_have_a_client_is_denied(deployment: Deployment, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(deployment.token_file.read_text())
    program = deployment.python(
        PRELUDE
        + """
guard.ready(30)
os.remove(os.environ["TAGOUT_TOKEN_FILE"])
if os.fork() == 0:
    for ask in (guard.check, guard.state, guard.call):
        try:
            ask()
        except tagout.TagoutStopped as stop:
            say(stop.code, "could not be made by itself: cannot read" in str(stop))
    sys.exit()
os.wait()
say(answer(guard.check))
"""
        , next(deployment.agents), TAGOUT_TOKEN_FILE=str(token),
    )
    assert ended(program).splitlines() == ["forked_child True"] * 3 + ["None"]


def test_s1_a_state_folder_is_of_one_process(deployment: Deployment, tmp_path: Path) -> None:
    program = deployment.python(
        PRELUDE
        + """
guard.ready(30)
if os.fork() == 0:
    answer(guard.ready, 30)
    say(answer(guard.check))
    sys.exit()
os.wait()
say(answer(guard.check))
"""
        , next(deployment.agents), TAGOUT_STATE_FOLDER=str(tmp_path / "state"),
    )
    assert ended(program).splitlines() == ["state_lost", "None"]


def test_prefork_workers_share_a_guard_by_name(deployment: Deployment) -> None:
    """As gunicorn with preload, and celery's prefork: made at import, used in workers."""
    agent = next(deployment.agents)
    program = deployment.python(
        PRELUDE
        + """
import multiprocessing

@guard.protect
def work(n):
    return n * n

def begin():
    guard.ready(30)

if __name__ == "__main__":
    guard.ready(30)
    with multiprocessing.get_context("fork").Pool(2, begin) as pool:
        say(pool.map(work, range(4)))
        sys.stdin.readline()
        for at in range(2):
            try:
                pool.map(work, range(4))
            except tagout.TagoutStopped as stop:
                say(type(stop).__name__, stop.tag, stop.by)
"""
        , agent,
    )
    assert line(program) == "[0, 1, 4, 9]"
    deployment.stop(agent)
    go_on(program)
    assert ended(program).splitlines() == ["TagoutStopped a test ('alice',)"] * 2


def checked_in_spawned(agent: str) -> None:
    guard = tagout.Client().guard(agent)
    guard.ready(PATIENCE_S)
    guard.check()


def tripped_in_spawned(agent: str) -> str | None:
    guard = tagout.Client().guard(agent)
    guard.ready(PATIENCE_S)
    return guard.trip("from a worker")


def test_spawned_workers_have_clients_of_their_own(deployment: Deployment) -> None:
    agent = next(deployment.agents)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(checked_in_spawned, (agent,))
        lock = pool.apply(tripped_in_spawned, (agent,))
        assert lock is not None and len(lock) == 64

        def passed() -> bool:
            pool.apply(checked_in_spawned, (agent,))
            return False

        with pytest.raises(TagoutStopped) as stop:
            wait_for(passed, "the service to know of the trip")
        assert stop.value.lock_id == lock


@pytest.mark.parametrize(
    "scene",
    [
        "guard.check()",
        "call = guard.call(); call.on_cut(print)",
        "threading.Thread(target=asyncio.run, args=(guard.run(asyncio.sleep(1000)),), daemon=True).start(); time.sleep(0.1)",
        "threading.Thread(target=asyncio.run, args=(guard.wait_enabled(),), daemon=True).start()",
        "threading.Thread(target=lambda: [guard.check() for _ in iter(int, 1)], daemon=True).start()",
        "stuck = lambda: time.sleep(1000); call = guard.call(); call.on_cut(stuck); guard.trip('a test'); time.sleep(0.1)",
        "stuck = lambda stop: threading.Event().wait(); guard.trip('a test'); guard.on_stop(stuck); time.sleep(0.1)",
        "import atexit; atexit.register(guard.trip, 'at the very end'); guard.on_stop(id)",
        "del guard, client; import gc; gc.collect()",
    ],
)
def test_an_interpreter_ends_whatever_is_under_way(deployment: Deployment, scene: str) -> None:
    program = deployment.python(
        PRELUDE + "guard.on_stop(lambda stop: None)\nguard.ready(30)\n" + scene + "\nsay('the end')",
        next(deployment.agents),
    )
    assert ended(program) == "the end\n"


def test_a_subinterpreter_is_refused_clearly(deployment: Deployment) -> None:
    program = deployment.python(
        """
import tagout
try:
    import _interpreters as interpreters  # from Python 3.13 on
except ImportError:
    import _xxsubinterpreters as interpreters
script = "try:\\n import tagout\\nexcept ImportError as error:\\n print('refused:', error, flush=True)"
interpreters.run_string(interpreters.create(), script)
"""
    )
    # From Python 3.12 on, CPython says it before the module is asked.
    assert "subinterpreter" in ended(program).removeprefix("refused: ")


def test_ready_heeds_signals(deployment: Deployment) -> None:
    program = deployment.python(
        PRELUDE
        + """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    tagout.Client(nodes=["https://127.0.0.1:9"]).guard(AGENT).ready(1000)
except KeyboardInterrupt:
    say("interrupted")
"""
        , next(deployment.agents),
    )
    assert ended(program) == "interrupted\n"


def test_ready_lets_other_threads_run(deployment: Deployment) -> None:
    guard = tagout.Client(nodes=["https://127.0.0.1:9"]).guard("demo/agent_2/alone")
    waiting = threading.Thread(target=lambda: pytest.raises(TagoutStopped, guard.ready, 0.5))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1_000)  # Only who lets go of the GIL by himself lets anybody run.
    try:
        waiting.start()
        assert waiting.is_alive()
    finally:
        sys.setswitchinterval(before)
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()
