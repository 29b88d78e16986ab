"""LiteLLM: whose a call is, its metadata say.

    from tagout.adapters.litellm import acompletion, completion

    completion(model=…, messages=…, metadata={"agent_id": "critic", "session_id": "a talk"})
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Any, TypeVar

import litellm

from tagout._install.acting import Acting, below

F = TypeVar("F", bound=Callable[..., Any])


def named(f: F) -> F:
    """A function or method that calls models, as `Router.acompletion`: the calls are those of the agent in their metadata.

    That is ``agent_id``, below the agent that the program has named; ``session_id`` is the conversation. A call without them is
    the program's agent's.
    """
    if inspect.iscoroutinefunction(f):

        @functools.wraps(f)
        async def call_later(*args: Any, **named: Any) -> Any:
            async with _acting_later(named):
                answer = await f(*args, **named)
                if isinstance(answer, litellm.CustomStreamWrapper):
                    await answer.fetch_stream()  # Some providers are asked with the first step otherwise.
                return answer

        return call_later  # type: ignore[return-value]

    @functools.wraps(f)
    def call(*args: Any, **named: Any) -> Any:
        with _acting(named):
            answer = f(*args, **named)
            if isinstance(answer, litellm.CustomStreamWrapper):
                answer.fetch_sync_stream()
            return answer

    return call  # type: ignore[return-value]


def _who(called: dict[str, Any]) -> Acting | None:
    said = called.get("metadata") or {}
    agent, conversation = said.get("agent_id"), said.get("session_id")
    if agent is None:
        return None
    return below(str(agent), **({"gen_ai.conversation.id": str(conversation)} if conversation else {}))


def _acting(called: dict[str, Any]) -> AbstractContextManager[Any]:
    return _who(called) or nullcontext()


def _acting_later(called: dict[str, Any]) -> AbstractAsyncContextManager[Any]:
    return _who(called) or nullcontext()


completion = named(litellm.completion)
acompletion = named(litellm.acompletion)
responses = named(litellm.responses)
aresponses = named(litellm.aresponses)
embedding = named(litellm.embedding)
aembedding = named(litellm.aembedding)
