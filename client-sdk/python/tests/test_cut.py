"""Calls under way are cut: tasks, generators, blocked sockets."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import pickle
import socket
import threading
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import TypeVar

import pytest
import uvloop

import tagout
from deployment import PATIENCE_S, Deployment
from tagout import TagoutStopped

T = TypeVar("T")
Run = Callable[[Awaitable[T]], T]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run[object]:
    """Runs a coroutine in a loop, for a bounded time."""
    new_loop = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def run(coroutine: Awaitable[T]) -> T:
        loop = new_loop()
        try:
            return loop.run_until_complete(asyncio.wait_for(coroutine, PATIENCE_S))
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    return run


async def stopped_meanwhile(deployment: Deployment, guard: tagout.Guard, work: Awaitable[object]) -> TagoutStopped:
    """What `work` ends with when the agent is stopped while it is under way."""
    task = asyncio.ensure_future(work)
    while guard.state().calls_under_way == 0:
        assert not task.done(), task
        await asyncio.sleep(0)
    await asyncio.to_thread(deployment.stop, guard.agent)
    with pytest.raises(TagoutStopped) as cut:
        await task
    assert cut.value.cut and cut.value.tag == "a test"
    assert guard.state().calls_under_way == 0
    return cut.value


def test_s3_a_plain_function_around_a_coroutine_is_under_way_until_that_ends(
    deployment: Deployment, guard: tagout.Guard, run: Run
) -> None:
    """As the methods of vendors' asynchronous clients are."""

    async def forever() -> None:
        await asyncio.Event().wait()

    @guard.protect
    @functools.wraps(forever)
    def ask() -> Awaitable[None]:
        return forever()

    run(stopped_meanwhile(deployment, guard, ask()))
    with pytest.raises(TagoutStopped):
        ask()


def test_s3_a_task_is_cut_where_it_stands_and_lives_on(deployment: Deployment, guard: tagout.Guard, run: Run) -> None:
    cleaned: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # what it does to clean up, it may still await
            cleaned.append("up")

    async def work() -> None:
        try:
            await guard.run(forever())
        except TagoutStopped:
            await asyncio.sleep(0.01)  # the task was not cancelled, only the call
            raise

    run(stopped_meanwhile(deployment, guard, work()))
    assert cleaned == ["up"]


def test_s3_a_task_or_future_of_somebody_elses_is_cut_too(deployment: Deployment, guard: tagout.Guard, run: Run) -> None:
    async def main() -> None:
        inner = asyncio.ensure_future(asyncio.sleep(1_000))
        await stopped_meanwhile(deployment, guard, guard.run(inner))
        assert inner.cancelled()
        refused = asyncio.ensure_future(asyncio.sleep(1_000))
        with pytest.raises(TagoutStopped):
            await guard.run(refused)
        await asyncio.sleep(0)
        assert refused.cancelled()

    run(main())


def test_s3_who_swallows_the_cut_is_cut_again(deployment: Deployment, guard: tagout.Guard, run: Run) -> None:
    swallowed: list[BaseException] = []

    async def stubborn() -> None:
        while len(swallowed) < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                swallowed.append(error)

    run(stopped_meanwhile(deployment, guard, guard.run(stubborn())))
    assert len(swallowed) == 2


def test_s3_an_answer_that_comes_after_the_cut_is_no_answer(deployment: Deployment, guard: tagout.Guard, run: Run) -> None:
    async def late() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return "an answer"

    run(stopped_meanwhile(deployment, guard, guard.run(late())))


def test_a_call_that_is_not_stopped_is_left_as_it_is(guard: tagout.Guard, run: Run) -> None:
    async def fails() -> None:
        raise KeyError("its own")

    async def main() -> None:
        assert await guard.run(asyncio.sleep(0, 7)) == 7
        assert await guard.run_or_else(asyncio.sleep(0, 7), lambda stop: 8) == 7
        with pytest.raises(KeyError, match="its own"):
            await guard.run(fails())
        task = asyncio.ensure_future(guard.run(asyncio.sleep(1_000)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(guard.run(asyncio.sleep(1_000)), 0.01)
        assert guard.state().calls_under_way == 0

    run(main())


def test_a_refused_call_never_begins(deployment: Deployment, guard: tagout.Guard, run: Run) -> None:
    deployment.stop(guard.agent)

    async def call() -> int:
        pytest.fail("it ran")

    async def later(stop: TagoutStopped) -> int:
        return 8

    async def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # "was never awaited"
            with pytest.raises(TagoutStopped) as refused:
                await guard.run(call())
            assert not refused.value.cut
            assert await guard.run_or_else(call(), lambda stop: 7) == 7
            assert await guard.run_or_else(call(), later) == 8
            with pytest.raises(TagoutStopped):
                await guard.protect(call)()
            gc.collect()

    run(main())


def test_s3_protected_coroutines_and_generators_are_cut(deployment: Deployment, client: tagout.Client, run: Run) -> None:
    def fresh() -> tagout.Guard:
        guard = client.guard(next(deployment.agents))
        guard.ready(PATIENCE_S)
        return guard

    async def main() -> None:
        coroutine = fresh()

        @coroutine.protect
        async def ask() -> None:
            await asyncio.Event().wait()

        await stopped_meanwhile(deployment, coroutine, ask())

        stream, closed = fresh(), []

        @stream.protect
        async def tokens() -> AsyncIterator[str]:
            try:
                yield "one"
                await asyncio.Event().wait()
            finally:
                closed.append(True)

        async def read() -> None:
            async for _ in tokens():
                pass

        await stopped_meanwhile(deployment, stream, read())
        assert closed == [True]

        steps, closed = fresh(), []

        @steps.protect
        def count() -> Iterator[int]:
            try:
                yield from range(1_000_000_000)
            finally:
                closed.append(True)

        async def step() -> None:
            for _ in count():
                await asyncio.sleep(0)

        await stopped_meanwhile(deployment, steps, step())
        assert closed == [True]

    run(main())


def test_protected_generators_are_generators(guard: tagout.Guard, run: Run) -> None:
    @guard.protect
    def echo() -> Generator[object, object, str]:
        got: object = None
        while got != "end":
            try:
                got = yield got
            except KeyError as error:
                got = error
        return "done"

    generator = echo()
    assert guard.state().calls_under_way == 0, "it begins with the first step"
    assert (next(generator), generator.send(1)) == (None, 1)
    assert isinstance(generator.throw(KeyError()), KeyError)
    assert guard.state().calls_under_way == 1
    with pytest.raises(StopIteration) as end:
        generator.send("end")
    assert end.value.value == "done" and guard.state().calls_under_way == 0

    @guard.protect
    async def echo_later() -> AsyncIterator[object]:
        got: object = None
        while got != "end":
            try:
                got = yield got
            except KeyError as error:
                got = error

    async def main() -> None:
        generator = echo_later()
        assert (await generator.asend(None), await generator.asend(1)) == (None, 1)
        assert isinstance(await generator.athrow(KeyError()), KeyError)
        with pytest.raises(StopAsyncIteration):
            await generator.asend("end")
        left = echo_later()
        await left.asend(None)
        await left.aclose()
        assert guard.state().calls_under_way == 0

    run(main())


class Agent:
    guard: tagout.Guard

    def under_way(self, *more: int, **named: int) -> tuple[object, ...]:
        """How many calls are under way."""
        return (type(self), self.guard.state().calls_under_way, *more, named)


def module_level(x: int) -> int:
    return x + 1


def test_a_protected_function_is_what_it_was(guard: tagout.Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    class Guarded(Agent):
        under_way = guard.protect(Agent.under_way)

        @staticmethod
        @guard.protect
        def alone() -> int:
            return 3

        @guard.protect
        def fails(self) -> None:
            raise KeyError("its own")

    Guarded.guard = guard
    agent = Guarded()
    assert agent.under_way(1, 2, a=3) == (Guarded, 1, 1, 2, {"a": 3})
    assert agent.under_way(*[1], **{"a": 3}) == (Guarded, 1, 1, {"a": 3})
    assert functools.partial(agent.under_way, 1)() == (Guarded, 1, 1, {})
    bound = agent.under_way
    assert bound.__self__ is agent and bound() == Guarded.under_way(agent) and agent.alone() == 3
    assert guard.state().calls_under_way == 0
    with pytest.raises(KeyError, match="its own"):
        agent.fails()
    assert guard.state().calls_under_way == 0
    protected = Guarded.under_way
    assert (protected.__name__, protected.__doc__) == ("under_way", Agent.under_way.__doc__)
    assert inspect.signature(protected) == inspect.signature(Agent.under_way)
    protected.note = "mine"  # type: ignore[attr-defined]
    assert protected.note == "mine"  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="missing 1 required"):
        guard.protect(module_level)()  # type: ignore[call-arg]
    monkeypatch.setitem(globals(), "module_level", guard.protect(module_level))
    assert pickle.loads(pickle.dumps(module_level)) is module_level and module_level(1) == 2


def test_a_protected_function_is_collected_with_its_cycle(guard: tagout.Guard) -> None:
    class Marker:
        pass

    def cycle() -> Callable[[], bool]:
        import weakref

        marker = Marker()
        protected = guard.protect(lambda: marker)
        marker.back = protected  # type: ignore[attr-defined]
        gone = weakref.ref(marker), weakref.ref(protected)
        return lambda: all(reference() is None for reference in gone)

    is_gone = cycle()
    gc.collect()
    assert is_gone()


def test_s3_blocks_are_cut(deployment: Deployment, client: tagout.Client, run: Run) -> None:
    async def main() -> None:
        guard = client.guard(next(deployment.agents))
        await asyncio.to_thread(guard.ready, PATIENCE_S)

        async def block() -> None:
            async with guard as call:
                call.check()
                await asyncio.Event().wait()

        await stopped_meanwhile(deployment, guard, block())

        # A block that can not be cut still does not end as if nothing had been.
        guard = client.guard(next(deployment.agents))
        await asyncio.to_thread(guard.ready, PATIENCE_S)
        ended: list[str] = []

        def sync() -> None:
            with guard as call:
                while call.stopped is None:
                    pass
                ended.append("the block")

        await stopped_meanwhile(deployment, guard, asyncio.to_thread(sync))
        assert ended == ["the block"]

    run(main())


def test_blocks_may_be_nested_and_interleaved(guard: tagout.Guard) -> None:
    def steps() -> Iterator[int]:
        with guard:
            yield guard.state().calls_under_way

    one, two = steps(), steps()
    with guard:
        assert [next(one), next(two)] == [2, 3]
        one.close()
        assert guard.state().calls_under_way == 2
        # Where it is ended by another thread, in a context that has not seen it begin.
        other = threading.Thread(target=two.close)
        other.start()
        other.join()
        assert guard.state().calls_under_way == 1
    assert guard.state().calls_under_way == 0


def test_s3_a_blocked_read_comes_back(deployment: Deployment, guard: tagout.Guard) -> None:
    ours, theirs = socket.socketpair()
    other, also_theirs = socket.socketpair()
    cut_by: list[TagoutStopped | None] = []
    call = guard.call()
    call.on_cut(lambda: cut_by.append(call.stopped))
    kept, done = call.socket(ours.fileno()), call.socket(other.fileno())
    done.close()
    stopper = threading.Thread(target=deployment.stop, args=(guard.agent,))
    ours.settimeout(PATIENCE_S)
    stopper.start()
    assert ours.recv(1) == b""
    with pytest.raises(TagoutStopped):
        call.check()
    other.sendall(b"x")
    assert also_theirs.recv(1) == b"x", "what was taken out is left alone"
    with pytest.raises(TagoutStopped):
        call.socket(other.fileno())
    late: list[str] = []
    told = threading.Event()
    call.on_cut(lambda: (late.append("told"), told.set()))
    assert told.wait(PATIENCE_S) and late == ["told"]
    assert [stop.tag if stop else None for stop in cut_by] == ["a test"]
    call.close()
    stopper.join(PATIENCE_S)
    kept.close()
    for fd in (-1, 10_000):
        with pytest.raises(OSError), begun_again(deployment, guard) as call:
            call.socket(fd)
    for end in (ours, theirs, other, also_theirs):
        end.close()


def begun_again(deployment: Deployment, guard: tagout.Guard) -> tagout.Call:
    deployment.resume(guard.agent)
    asyncio.run(asyncio.wait_for(guard.wait_enabled(), PATIENCE_S))
    return guard.call()


def test_s8_a_stop_is_confirmed_once_what_was_cut_has_ended(deployment: Deployment, guard: tagout.Guard) -> None:
    call, cut = guard.call(), threading.Event()
    call.on_cut(cut.set)
    said: list[str] = []
    stopper = threading.Thread(target=lambda: said.append(deployment.cli("stop", guard.agent, "--reason", "a test")))
    stopper.start()
    assert cut.wait(PATIENCE_S)
    time.sleep(0.3)
    assert said == [], "the call is still under way"
    call.close()
    stopper.join(PATIENCE_S)
    assert "confirmed" in said[0] and "1 call cut" in said[0]
