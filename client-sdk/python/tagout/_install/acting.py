"""Other agents than the one that `install()` was given, and what they do besides calling models."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeVar

from tagout import _protect
from tagout._guard import Guard
from tagout._install.installed import Actor, Installed, actor, installation
from tagout._install.raised import raised
from tagout._native import Call
from tagout._stopped import TagoutStopped

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

# What a segment of a scope takes (proto/SPEC.md, M19).
_SEGMENT_MAX = 64
_NOT_OF_A_SEGMENT = re.compile(r"[^A-Za-z0-9._-]+")
_HASH_DIGITS = 6


def agent(name: str) -> Acting:
    """Model calls in the block, and in the tasks and threads that it starts, are those of agent `name`, a scope.

    The first block of an agent waits for the service's answer as `install()` does; `async with` does so without holding up the
    event loop.
    """
    return Acting(Actor(name, name))


def below(name: str, **attributes: str) -> Acting:
    """The same for what a framework calls an agent: `name` becomes one segment below the agent that the program has named.

    Spaces become ``_``: the agent "Senior Researcher" of ``demo/agent_2`` is ``demo/agent_2/Senior_Researcher``. So does what
    else a scope does not take, and then a hash of the name is appended, so that two names are two agents. Agents that call others
    are not nested. `attributes` are what records say of the calls.
    """
    base = current_installed().actor().base
    return Acting(Actor(f"{base}/{_segment(name)}", base, {"gen_ai.agent.name": name, **attributes}))


def _segment(name: str) -> str:
    readable = name.replace(" ", "_")
    segment = _NOT_OF_A_SEGMENT.sub("_", readable).strip("_.")[:_SEGMENT_MAX]
    if segment == readable and segment:
        return segment
    digits = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    return f"{segment[: _SEGMENT_MAX - _HASH_DIGITS - 1]}-{digits}".lstrip("-")


def current_guard() -> Guard:
    """The guard of the agent that acts in this task or thread."""
    installed = current_installed()
    return installed.guard_of(installed.actor().agent)


def tool(f: F) -> F:
    """A function that acts in the world, under the guard of the agent that acts when it is called.

    It is as `guard.protect`, for functions that are made before it is known whose they are: refused while the agent is
    stopped, and coroutines and generators are cut. Without `install()` it raises `RuntimeError`.
    """
    return _protect.protect(_Acting(), f)  # type: ignore[return-value]


def current_installed() -> Installed:
    installed = installation.current
    if installed is None:
        raise RuntimeError("tagout is not installed: call tagout.install(…) first")
    return installed


class Acting:
    """A block in which another agent acts."""

    def __init__(self, who: Actor) -> None:
        self._who = who
        current_installed()

    def __enter__(self) -> Guard:
        guard = current_installed().guard_of(self._who.agent)
        _entered.set((*_entered.get(), (self, actor.get())))
        actor.set(self._who)
        return guard

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entered = [*_entered.get()]
        newest = next((at for at in reversed(range(len(entered))) if entered[at][0] is self), None)
        if newest is None:
            return  # Of a generator that was begun in another context: in this one nobody has entered.
        _, before = entered.pop(newest)
        if newest == len(entered):
            actor.set(before)
        else:
            # Blocks that were entered later go on, and the first of them has come after what was before this one.
            entered[newest] = (entered[newest][0], before)
        _entered.set(tuple(entered))

    async def __aenter__(self) -> Guard:
        installed = current_installed()
        if not installed.knows(self._who.agent) and is_asyncio():
            await asyncio.to_thread(installed.guard_of, self._who.agent)
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    async def from_here_on(self) -> Guard:
        """The agent acts to the end of the task: for hooks that are called before something, and cannot be around it."""
        guard = await self.__aenter__()
        _entered.set(_entered.get()[:-1])  # Nobody is going to leave it.
        return guard

    async def steps(self, items: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """An asynchronous generator's items, with the agent acting in each step of it and not between them."""
        try:
            while True:
                async with self:
                    try:
                        item = await anext(items)
                    except StopAsyncIteration:
                        return
                yield item
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()


# The blocks that this context is in, each with who acted before. It is not the block that keeps this: tasks and threads share it.
_entered: ContextVar[tuple[tuple[Acting, Actor | None], ...]] = ContextVar("tagout_acting", default=())


class _Acting:
    """Stands for the guard of whoever acts."""

    def call(self) -> Call:
        try:
            return current_guard().call()
        except TagoutStopped as stopped:
            raise raised(stopped) from None


def is_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
