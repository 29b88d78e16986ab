"""One model call under way, from before it is sent to the last byte of its answer, in the hands of the patched libraries."""

from __future__ import annotations

import asyncio
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import TracebackType

from tagout._cut import cancelling, uncancel
from tagout._install.installed import installation
from tagout._install.raised import raised
from tagout._install.recording import Body, Recording
from tagout._native import Call, GuardedSocket
from tagout._stopped import TagoutStopped


# The call that this task or thread works for, for the layers below the one that began it.
current: ContextVar[Flight | None] = ContextVar("tagout_flight", default=None)


@contextmanager
def no_flight() -> Iterator[None]:
    """For a request that is no model call, though one may be under way around it."""
    before = current.set(None)
    try:
        yield
    finally:
        current.reset(before)


def begin(host: str, port: int, target: str, method: str, body: Body) -> Flight | None:
    """Begins the call if it is one of a model. Raises `TagoutStopped` if it may not begin."""
    installed = installation.current
    if installed is None or not installed.endpoints.match(host, port, target):
        return None
    actor, recorder = installed.actor(), installed.recorder
    recording = None if recorder is None else recorder.begin(actor, host, port, target, method, body)
    try:
        return Flight(installed.guard_of(actor.agent).call(), recording)
    except TagoutStopped as stopped:
        if recording is not None:
            recording.end(stopped)
        raise raised(stopped) from None


class Flight:
    """Entered around each step of the call: where it was cut, the step ends with `TagoutStopped`, whatever came of it."""

    def __init__(self, call: Call, recording: Recording | None) -> None:
        self._call = call
        self.recording = recording
        if recording is not None:
            recording.call = call
        self._sockets: list[GuardedSocket] = []
        self._wakers: list[Callable[[], None]] = []
        self._lock = threading.RLock()
        self._before: Token[Flight | None] | None = None
        # Weakly: a call whose answer nobody reads to its end is over when that answer is collected.
        wake = weakref.WeakMethod(self._wake)

        def cut() -> None:
            wake_now = wake()
            if wake_now is not None:
                wake_now()

        call.on_cut(cut)

    @property
    def stopped(self) -> TagoutStopped | None:
        stopped = self._call.stopped
        return None if stopped is None else raised(stopped)

    def check(self) -> None:
        stopped = self.stopped
        if stopped is not None:
            raise stopped

    def holds(self, connection: socket.socket | None, also_woken: bool = False) -> GuardedSocket | None:
        """Has a cut shut `connection`, which this call has for itself until what this gives is closed, or the call."""
        if connection is None:
            return None
        try:
            held = self._call.socket(connection.fileno())
        except TagoutStopped as stopped:
            raise raised(stopped) from None
        except OSError:
            # Its peer is gone: that is for the library to see. Or there are too many: then what a cut wakes goes on.
            if not also_woken and _connected(connection):
                raise
            return None
        self._sockets.append(held)
        return held

    @property
    def is_held(self) -> bool:
        return bool(self._sockets)

    def wake_by(self, waker: Callable[[], None]) -> None:
        """Has a cut call `waker`, from a thread of Tagout's own; at once, if it was."""
        with self._lock:
            self._wakers.append(waker)
        if self._call.stopped is not None:
            waker()

    def wake_no_more_by(self, waker: Callable[[], None]) -> None:
        with self._lock:
            if waker in self._wakers:
                self._wakers.remove(waker)

    def _wake(self) -> None:
        # Who takes a waker away may then close what it wakes by. None of them waits for anything.
        with self._lock:
            for waker in list(self._wakers):
                waker()

    def close(self) -> None:
        """The call is over; what it held goes back to where it came from."""
        while self._sockets:
            self._sockets.pop().close()
        self._call.close()
        if self.recording is not None:
            self.recording.end()

    def __enter__(self) -> Flight:
        try:
            self.check()
        except TagoutStopped:
            self.close()
            raise
        self._before = current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            current.reset(self._before)
        self.leave(error, isinstance(error, Exception))

    def leave(self, error: BaseException | None, replace: bool) -> None:
        stopped = self.stopped
        if error is not None and self.recording is not None:
            self.recording.failed(error)
        if error is not None or stopped is not None:
            self.close()
        if stopped is not None and not isinstance(error, TagoutStopped) and (error is None or replace):
            raise stopped from error

    def task(self) -> _Task:
        """The same for a step of an asyncio task, which a cut cancels. Other loops' tasks are woken by their sockets."""
        return _Task(self)


class _Task:
    def __init__(self, flight: Flight) -> None:
        self._flight = flight
        self._cancels = 0

    def __enter__(self) -> None:
        self._task = _current_task()
        self._flight.__enter__()
        if self._task is not None:
            self._loop = asyncio.get_running_loop()
            self._cancelling = cancelling(self._task)
            self._flight.wake_by(self._wake)

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:
            pass  # The loop is closed, and with it the task is over.

    def _cancel(self) -> None:
        # The task stands inside of the block here, so the cancellation arrives there.
        if self._task is not None:
            self._cancels += 1
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        replace = isinstance(error, Exception)
        if task is not None:
            self._flight.wake_no_more_by(self._wake)
            uncancel(task, self._cancels)
            ours = self._cancels > 0 and cancelling(task) <= self._cancelling
            replace = replace or (isinstance(error, asyncio.CancelledError) and ours)
        before = self._flight._before
        if before is not None:
            current.reset(before)
        self._flight.leave(error, replace)


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None  # Another kind of loop.


def _connected(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError:
        return False
    return True
