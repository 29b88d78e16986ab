"""The client and its guards."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from tagout import _cut, _native, _protect
from tagout._state import State
from tagout._stopped import TagoutStopped

if TYPE_CHECKING:
    from tagout._native import Call, Watch

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])


class Client(_native.Client):
    """Keeps the leases of its guards. Make one in a program; it waits for nobody.

    `profile` is the deployment's ``profile.toml``, which says where its nodes, its CA and its genesis are and what is pinned;
    `nodes`, `ca`, `genesis` and `pinned` say it instead, one by one. What is not given comes from the environment:
    ``TAGOUT_PROFILE``, ``TAGOUT_NODES`` (separated by commas), ``TAGOUT_CA``, ``TAGOUT_GENESIS``, ``TAGOUT_PINNED``,
    ``TAGOUT_TOKEN`` or ``TAGOUT_TOKEN_FILE``, ``TAGOUT_STOP_FOLDER`` and ``TAGOUT_STATE_FOLDER``. `ca` and `genesis` are
    files, or as `bytes` what would stand in them.

    A forked child makes it anew when it first asks a guard, so one made before workers are forked is good in all of them.

    Raises `ValueError` and `OSError`, which say what is wrong with that.
    """

    __slots__ = ()

    def guard(self, agent: str) -> Guard:
        """The guard of `agent`, a scope such as ``demo/agent_2``. It never waits, and denies until a node has answered."""
        return Guard(self, agent)


class _Gate(_native.Gate):
    """What stands before an agent's calls."""

    __slots__ = ("_client", "_entered")

    def __init__(self, client: Client, agent: str, essential_class: str | None = None) -> None:
        self._client = client
        self._entered: list[_Entered] = []

    def __enter__(self) -> Call:
        """A call for as long as the block takes. If it was cut meanwhile, the block ends with `TagoutStopped`."""
        return self._enter(_Entered(self.call(), None))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entered = self._leave()
        entered.call.close()
        _cut.leave(entered.call, error)

    async def __aenter__(self) -> Call:
        """As `with`, and the task is cut where it stands."""
        call = self.call()
        try:
            cutting = _cut.Cutting(call)
            cutting.__enter__()
        except BaseException:
            call.close()
            raise
        return self._enter(_Entered(call, cutting))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entered = self._leave()
        with entered.call:
            if entered.cutting is not None:
                entered.cutting.__exit__(kind, error, traceback)

    def _enter(self, entered: _Entered) -> Call:
        self._entered.append(entered)
        _stack.set((*_stack.get(), entered))
        return entered.call

    def _leave(self) -> _Entered:
        """The newest of this context. A generator may be ended in another one than it was begun in: then simply the newest."""
        stack = _stack.get()
        entered = next((entered for entered in reversed(stack) if entered in self._entered), self._entered[-1])
        self._entered.remove(entered)
        _stack.set(tuple(other for other in stack if other is not entered))
        return entered

    async def run(self, awaitable: Awaitable[T]) -> T:
        """Awaits it unless the agent is stopped, and cancels it where it stands if that happens meanwhile.

        Raises `TagoutStopped` either way. What comes of a call after its cut is no answer and is thrown away.
        """
        return await _cut.run(self, awaitable)

    async def run_or_else(
        self, awaitable: Awaitable[T], fallback: Callable[[TagoutStopped], T | Awaitable[T]]
    ) -> T:
        """As `run`, for a call that the agent can do without: refused or cut, it gives what `fallback` makes of that.

        What `fallback` does is under no guard, so let it call no model.
        """
        try:
            return await _cut.run(self, awaitable)
        except TagoutStopped as stopped:
            instead = fallback(stopped)
        return await instead if inspect.isawaitable(instead) else instead

    def protect(self, f: F) -> F:
        """`f` as a call: it begins if the agent may call, and is under way until it ends.

        A coroutine and an asynchronous generator are cut where they stand, a generator between two of its items. A function
        that is none of these comes to an end by itself; a stop is confirmed to people when it has.
        """
        return _protect.protect(self, f)  # type: ignore[return-value]


class Guard(_Gate):
    """The circuit breaker before one agent's calls. Guards of one agent are one.

    It is cooperative: it stops code that asks. An agent that can rewrite this process can leave it out.
    """

    __slots__ = ()

    def essential(self, cls: str) -> EssentialGuard:
        """The guard of essential calls of class `cls`, which go on during a drain and under a restriction.

        People name the classes in the consent. One that nobody named is denied, always.
        """
        return EssentialGuard(self._client, self.agent, cls)

    def on_stop(self, callback: Callable[[TagoutStopped], object]) -> Watch:
        """Has `callback` called by a thread of Tagout's own whenever the agent is stopped; at once, if it is.

        Once for each stop, and for whatever else people must mend, such as consent that ended; not for a lapse, which ends by
        itself. Callbacks wait for one another, and cuts never for them. Close what it gives to hear no more.
        """
        return self._when_stopped(callback)

    async def wait_enabled(self) -> None:
        """Waits until calls may begin. Raises `TagoutStopped` where nothing leads to that."""
        loop = asyncio.get_running_loop()
        enabled: asyncio.Future[None] = loop.create_future()

        def settle(stopped: TagoutStopped | None) -> None:
            if enabled.done():
                return
            if stopped is None:
                enabled.set_result(None)
            else:
                enabled.set_exception(stopped)

        def tell(stopped: TagoutStopped | None) -> None:
            try:
                loop.call_soon_threadsafe(settle, stopped)
            except RuntimeError:
                pass  # The loop is closed: nobody waits.

        watch = self._when_enabled(tell)
        try:
            await enabled
        finally:
            watch.close()

    def ready(self, timeout: float = 10.0) -> State:
        """Waits until a node has answered for this agent, whatever the answer is.

        Raises `TagoutStopped` after `timeout` seconds. In an event loop, ``await asyncio.to_thread(guard.ready)``.
        """
        return State(**self._ready(timeout))

    def state(self) -> State:
        """How it stands now."""
        return State(**self._state())

    def trip(self, reason: str) -> str:
        """Stops this agent, for what the program itself sees that must not go on, and gives the id of the lock.

        Nobody signs it. When this returns it holds here, and calls under way are cut; then the service is told, which stops
        the agent's other instances. It ends as every halt does, by a release and a start that people sign.
        """
        return self._trip(reason)


class EssentialGuard(_Gate):
    """The guard of one agent's essential calls of one class: those that a drain and a restriction leave."""

    __slots__ = ()


class _Entered:
    """A block that is under a guard."""

    __slots__ = ("call", "cutting")

    def __init__(self, call: Call, cutting: _cut.Cutting | None) -> None:
        self.call, self.cutting = call, cutting


# What this context has entered, of all guards.
_stack: ContextVar[tuple[_Entered, ...]] = ContextVar("tagout_entered", default=())
