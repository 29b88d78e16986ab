"""Cuts calls of asyncio tasks: a stop cancels the task where it stands, and what is raised is `TagoutStopped`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from types import TracebackType
from typing import TypeVar

from tagout._native import Call, Gate

T = TypeVar("T")

# A task that swallows its cancellation gets another one.
_AGAIN_S = 1.0


async def run(gate: Gate, awaitable: Awaitable[T]) -> T:
    """Awaits under a call of its own."""
    try:
        call = gate.call()
    except BaseException:
        _drop(awaitable)
        raise
    with call:
        return await under(call, awaitable)


async def under(call: Call, awaitable: Awaitable[T]) -> T:
    """Awaits a part of `call`."""
    with Cutting(call):
        return await awaitable


def _drop(awaitable: Awaitable[object]) -> None:
    """What is refused is not awaited: nor shall Python warn of that, or a task go on."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()
    elif isinstance(awaitable, asyncio.Future):
        awaitable.cancel()


class Cutting:
    """While it is entered, a cut of `call` cancels the current task; it leaves with `TagoutStopped` then."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._again: asyncio.TimerHandle | None = None
        self._watched = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a call can be cut in an asyncio task only")
        self._task: asyncio.Task[object] | None = task
        self._loop = asyncio.get_running_loop()
        self._cancels, self._cancelling = 0, cancelling(task)
        # Once for all its blocks: what is told lasts as long as the call.
        if not self._watched:
            self._watched = True
            self._call.on_cut(self._cut)
        elif self._call.stopped is not None:
            self._cut()

    def _cut(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:
            pass  # The loop is closed, and with it the task is over.

    def _cancel(self) -> None:
        # The task stands inside of the block here, so the cancellation arrives there.
        if self._task is not None:
            self._cancels += 1
            self._task.cancel()
            if self._again is not None:
                self._again.cancel()
            self._again = self._loop.call_later(_AGAIN_S, self._cancel)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        assert task is not None
        if self._again is not None:
            self._again.cancel()
        uncancel(task, self._cancels)
        leave(self._call, error, others_cancel=cancelling(task) > self._cancelling)


def leave(call: Call, error: BaseException | None, others_cancel: bool = False) -> None:
    """Raises the stop of a call that was cut, in place of what came of it, whatever that is.

    What ends a task or a program for another reason goes on as it is.
    """
    stopped = call.stopped
    if stopped is None or type(stopped) is type(error):
        return
    if error is None or isinstance(error, Exception):
        raise stopped from error
    if isinstance(error, asyncio.CancelledError) and not others_cancel:
        raise stopped from error


def cancelling(task: asyncio.Task[object]) -> int:
    """How often somebody has cancelled it. Python 3.10 does not count that."""
    return task.cancelling() if hasattr(task, "cancelling") else 0


def uncancel(task: asyncio.Task[object], times: int) -> None:
    """Takes back what we have cancelled ourselves."""
    if hasattr(task, "uncancel"):
        for _ in range(times):
            task.uncancel()
