"""Threads are of the agent that starts them, as asyncio's tasks are by themselves.

Only who acts goes along, no other context: `threading.Thread.start` and the `submit` of thread pools carry it.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tagout._install.installed import actor
from tagout._install.patches import Function, Patches


def patch(patches: Patches) -> None:
    patches.wrap(threading.Thread, "start", _start)
    patches.wrap(ThreadPoolExecutor, "submit", _submit)


def _start(original: Function) -> Function:
    def start(thread: threading.Thread) -> None:
        acts = actor.get()
        if acts is None:
            original(thread)
            return
        run, own = thread.run, thread.__dict__.get("run")

        def restore() -> None:
            if own is None:
                thread.__dict__.pop("run", None)
            else:
                thread.__dict__["run"] = own

        def named_run() -> None:
            restore()
            actor.set(acts)
            run()

        thread.__dict__["run"] = named_run
        try:
            original(thread)
        except BaseException:
            restore()  # There may be room for a thread later.
            raise

    return start


def _submit(original: Function) -> Function:
    def submit(pool: ThreadPoolExecutor, function: Any, /, *args: Any, **named: Any) -> Any:
        acts = actor.get()

        def named_function(*args: Any, **named: Any) -> Any:
            before = actor.set(acts)
            try:
                return function(*args, **named)
            finally:
                actor.reset(before)

        return original(pool, named_function, *args, **named)

    return submit
