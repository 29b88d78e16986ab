"""One module for each kind of library that calls models.

`calls(url)` of each gives its ways to call, by name: each takes a model and returns when its answer has ended. Names with
``stream`` are streams; the others wait for a whole answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

Calls = dict[str, Callable[[str], object]]


def blocking(ask: Callable[[str], Coroutine[Any, Any, object]]) -> Callable[[str], object]:
    return lambda model: asyncio.run(ask(model))
