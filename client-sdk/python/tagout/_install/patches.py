"""What is put in place of other libraries' functions, and how it is taken away again."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

Function = Callable[..., Any]


class Patches:
    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def wrap(self, owner: type, name: str, wrapper: Callable[[Function], Function]) -> None:
        """Has `owner.name` be what `wrapper` makes of it. Does nothing where this generation of a library has no such."""
        original = owner.__dict__.get(name)
        if original is None:
            return
        wrapped = wrapper(original)
        wrapped.__name__, wrapped.__qualname__, wrapped.__doc__ = name, original.__qualname__, original.__doc__
        wrapped.__wrapped__ = original  # type: ignore[attr-defined]
        setattr(owner, name, wrapped)

        def undo() -> None:
            # Not what somebody else has put over it: that calls ours, which passes everything when nothing is installed.
            if owner.__dict__.get(name) is wrapped:
                setattr(owner, name, original)

        self.undo_by(undo)

    def undo_by(self, undo: Callable[[], None]) -> None:
        self._undo.append(undo)

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()


def module(name: str) -> ModuleType | None:
    """The module, where it is installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
