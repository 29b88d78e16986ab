"""Tool calls of the Model Context Protocol, by the `mcp` package: an agent that is stopped acts no more.

What frameworks and programs ask of a server passes `send_request` of their session; only ``tools/call`` is guarded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from tagout._install.acting import current_guard, is_asyncio, tool
from tagout._install.installed import installation
from tagout._install.patches import Function, Patches

_SESSIONS = "mcp.client.session"


def patch(patches: Patches) -> None:
    """Now, or when it is loaded: loading it takes half a second, and most programs have no use for it."""
    if _SESSIONS in sys.modules:
        _patch(sys.modules[_SESSIONS], patches)
    else:
        finder = _Finder(patches)
        sys.meta_path.insert(0, finder)
        patches.undo_by(lambda: sys.meta_path.remove(finder))


def _patch(sessions: ModuleType, patches: Patches) -> None:
    # In mcp 1 it is a method of a base.
    for owner in sessions.ClientSession.__mro__:
        patches.wrap(owner, "send_request", _send_request)


def _send_request(original: Function) -> Function:
    guarded = tool(original)

    async def send_request(session: Any, request: Any, *args: Any, **named: Any) -> Any:
        # mcp 1 wraps requests in a type of their union.
        if installation.current is None or getattr(request, "root", request).method != "tools/call":
            return await original(session, request, *args, **named)
        if not is_asyncio():
            current_guard().check()  # Trio's tasks are not cut.
            return await original(session, request, *args, **named)
        return await guarded(session, request, *args, **named)

    return send_request


class _Finder:
    """Has the module patched as soon as somebody has loaded it."""

    def __init__(self, patches: Patches) -> None:
        self._patches = patches

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == _SESSIONS else None
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_patch(module: ModuleType) -> None:
            load(module)
            if self in sys.meta_path:  # Meanwhile it may have been uninstalled.
                _patch(module, self._patches)

        spec.loader.exec_module = load_and_patch  # type: ignore[method-assign]
        return spec
