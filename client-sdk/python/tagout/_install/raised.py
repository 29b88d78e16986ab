"""`TagoutStopped` in the shape in which the frameworks that are loaded do not retry it.

The vendors' SDKs retry what they do not know, but not what derives from their own base error. Generations that retry that
too get a look before they do.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from tagout._install.installed import installation
from tagout._install.patches import Patches
from tagout._stopped import TagoutStopped

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
# Where these SDKs, which one generator makes, wait before they try again.
_BASE_CLIENTS = ("SyncAPIClient", "AsyncAPIClient")
_RETRIES = ("_sleep_for_retry", "_retry_request")

_looked_at: set[type] = set()
_looks = Patches()


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
    if installation.current is None:
        return  # Nobody would take them away again.
    for module in BASE_ERRORS:
        clients = sys.modules.get(f"{module}._base_client")
        for name in _BASE_CLIENTS if clients else ():
            client = getattr(clients, name, None)
            if isinstance(client, type) and client not in _looked_at:
                _looked_at.add(client)
                for retry in _RETRIES:
                    _looks.wrap(client, retry, _looking)


def _looking(retry: Callable[..., Any]) -> Callable[..., Any]:
    """Raises the stop that is being handled instead of trying again."""

    def look() -> None:
        # By causes alone: the context of an error may be an older stop, in whose handler this call is made.
        error = sys.exc_info()[1]
        while error is not None and not isinstance(error, TagoutStopped):
            error = error.__cause__
        if error is not None:
            raise error

    if inspect.iscoroutinefunction(retry):

        async def wait(*args: Any, **named: Any) -> Any:
            look()
            return await retry(*args, **named)

        return wait

    def wait_blocking(*args: Any, **named: Any) -> Any:
        look()
        return retry(*args, **named)

    return wait_blocking
