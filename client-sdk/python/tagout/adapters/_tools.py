"""Tools as frameworks have them: an asynchronous function, around one that may be plain."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from tagout._install.acting import current_guard, tool

Run = Callable[..., Awaitable[Any]]


def guarded(run: Run, function: object = None) -> Run:
    """`run` under the guard of who acts when it is called: refused, and cut.

    Where `function`, which it runs, is a plain one, it is not cut, since that would go on in its thread: it is under way to its
    end, and raises `TagoutStopped` then.
    """
    if function is None or inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return tool(run)

    async def to_its_end(*args: Any, **named: Any) -> Any:
        with current_guard().call() as call:
            result = await run(*args, **named)
            call.check()
            return result

    return to_its_end
