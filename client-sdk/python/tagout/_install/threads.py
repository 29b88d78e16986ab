"""Threads are of the agent that starts them, as asyncio's tasks are by themselves.

Only who is named by `with tagout.agent(…)` goes along, no other context: `threading.Thread.start` and the `submit` of thread
pools carry it.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tagout._install.flight import named_agent
from tagout._install.patches import Function, Patches


def patch(patches: Patches) -> None:
    patches.wrap(threading.Thread, "start", _start)
    patches.wrap(ThreadPoolExecutor, "submit", _submit)


def _start(original: Function) -> Function:
    def start(thread: threading.Thread) -> None:
        agent = named_agent.get()
        if agent is not None:
            run = thread.run

            def named_run() -> None:
                del thread.__dict__["run"]
                named_agent.set(agent)
                run()

            thread.__dict__["run"] = named_run
        original(thread)

    return start


def _submit(original: Function) -> Function:
    def submit(pool: ThreadPoolExecutor, function: Any, /, *args: Any, **named: Any) -> Any:
        agent = named_agent.get()

        def named_function(*args: Any, **named: Any) -> Any:
            before = named_agent.set(agent)
            try:
                return function(*args, **named)
            finally:
                named_agent.reset(before)

        return original(pool, named_function, *args, **named)

    return submit
