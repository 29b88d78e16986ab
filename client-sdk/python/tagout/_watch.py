"""The threads that call what users and the asyncio layer want to be told by."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tagout._native import Watcher


def start(watcher: Watcher) -> None:
    """Starts a thread that does this watcher's work until the interpreter ends."""
    finished = _original("allocate_lock")()
    finished.acquire()
    start_thread(_work, watcher, finished)

    def end() -> None:
        # It shall not be on its way back to Python when the interpreter goes. Only a callback that blocks keeps it.
        watcher.close()
        finished.acquire(timeout=1)

    atexit.register(end)


def _work(watcher: Watcher, finished) -> None:  # type: ignore[no-untyped-def]
    try:
        while (event := watcher.next()) is not None:
            callback, arguments = event
            try:
                callback(*arguments)
            except Exception:
                sys.excepthook(*sys.exc_info())
            del event, callback, arguments
    finally:
        finished.release()


def start_thread(function: Callable[..., object], *arguments: object) -> None:
    """Starts a thread that takes no lock of Python's own `threading`, and that nothing waits for."""
    _original("start_new_thread")(function, arguments)


def _original(name: str):  # type: ignore[no-untyped-def]
    """A real thread and a real lock, also where gevent has put greenlets in their place."""
    if "gevent.monkey" in sys.modules:
        return sys.modules["gevent.monkey"].get_original("_thread", name)
    import _thread

    return getattr(_thread, name)
