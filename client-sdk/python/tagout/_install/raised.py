"""`TagoutStopped` in the shape in which the frameworks that are loaded do not retry it.

The vendors' SDKs retry what they do not know, but not what derives from their own base error. Generations that retry that
too get a look before they do.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from tagout._install.installed import installation
from tagout._install.patches import Patches
from tagout._stopped import TagoutStopped, find_newer_stop

# The base errors of SDKs, by module; what derives from another comes before it.
BASE_ERRORS = {
    "litellm.exceptions": "OpenAIError",
    "openai": "OpenAIError",
    "anthropic": "AnthropicError",
    "groq": "GroqError",
    "together": "TogetherError",
    "cerebras.cloud.sdk": "CerebrasError",
}
# LiteLLM makes its errors by the status: of those that its Router does not retry, the one that it knows of every provider.
_STATUS = 400
# Where these SDKs, which one generator makes, begin a request, and wait before they try again.
_BASE_CLIENTS = ("SyncAPIClient", "AsyncAPIClient")
_REQUEST = "request"
_RETRIES = ("_sleep_for_retry", "_retry_request")

_looked_at: set[type] = set()
_looks = Patches()
# Held for a moment; again by the same thread where the garbage collector runs something in between.
_changing = threading.RLock()
# What was being handled when the request of this task or thread began: no error of its own.
_handled: ContextVar[BaseException | None] = ContextVar("tagout_handled", default=None)


def raised(stopped: TagoutStopped) -> TagoutStopped:
    """The same stop, of a class that derives from the base errors of the SDKs that are loaded."""
    _look_before_retries()
    bases = tuple(dict.fromkeys(_base_errors()))
    if not bases or isinstance(stopped, bases):
        return stopped
    kind = _kind(bases)
    other = kind.__new__(kind, *stopped.args)
    other.__dict__.update(stopped.__dict__)
    return other


def forget() -> None:
    """Takes the looks before retries away again."""
    with _changing:
        _looks.undo()
        _looked_at.clear()


def _base_errors() -> list[type[Exception]]:
    found = (getattr(sys.modules.get(module), name, None) for module, name in BASE_ERRORS.items())
    return [error for error in found if isinstance(error, type) and issubclass(error, Exception)]


@lru_cache(maxsize=16)
def _kind(bases: tuple[type[Exception], ...]) -> type[TagoutStopped]:
    def text(stopped: TagoutStopped) -> str:
        return RuntimeError.__str__(stopped)

    def reduced(stopped: TagoutStopped) -> tuple[Any, ...]:
        # Unpickled it has the shape of the process that it comes to.
        return _again, (stopped.args, dict(stopped.__dict__))

    body = {
        "__module__": "tagout",
        "__doc__": TagoutStopped.__doc__,
        "__str__": text,
        "__reduce__": reduced,
        "status_code": _STATUS,
    }
    return type("TagoutStopped", (TagoutStopped, *bases), body)


def _again(args: tuple[Any, ...], about: dict[str, Any]) -> TagoutStopped:
    stopped = TagoutStopped(*args)
    stopped.__dict__.update(about)
    return raised(stopped)


def _look_before_retries() -> None:
    with _changing:
        if installation.current is None:
            return  # Calls of before end later; nobody would take the looks away again.
        for module in BASE_ERRORS:
            clients = sys.modules.get(f"{module}._base_client")
            for name in _BASE_CLIENTS if clients else ():
                client = getattr(clients, name, None)
                if isinstance(client, type) and client not in _looked_at:
                    _looked_at.add(client)
                    _looks.wrap(client, _REQUEST, _noting)
                    for retry in _RETRIES:
                        _looks.wrap(client, retry, _looking)


def _noting(request: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps what is being handled around a request from being taken for what it failed by."""
    if inspect.iscoroutinefunction(request):

        async def ask(*args: Any, **named: Any) -> Any:
            before = _handled.set(sys.exc_info()[1])
            try:
                return await request(*args, **named)
            finally:
                _handled.reset(before)

        return ask

    def ask_blocking(*args: Any, **named: Any) -> Any:
        before = _handled.set(sys.exc_info()[1])
        try:
            return request(*args, **named)
        finally:
            _handled.reset(before)

    return ask_blocking


def _looking(retry: Callable[..., Any]) -> Callable[..., Any]:
    """Raises the stop that the request has failed by instead of trying again."""

    def look() -> None:
        stopped = find_newer_stop(sys.exc_info()[1], _handled.get())
        if stopped is not None:
            raise stopped

    if inspect.iscoroutinefunction(retry):

        async def wait(*args: Any, **named: Any) -> Any:
            look()
            return await retry(*args, **named)

        return wait

    def wait_blocking(*args: Any, **named: Any) -> Any:
        look()
        return retry(*args, **named)

    return wait_blocking
