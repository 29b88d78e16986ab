"""LiteLLM: whose calls are whose, by their metadata."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import litellm
import pytest

import tagout
from deployment import Deployment, wait_for
from examples import running
from models import Models
from tagout.adapters.litellm import acompletion, completion, named
from world import Agents, Work, agents, installed, models, refused  # noqa: F401

MESSAGES: Any = [{"role": "user", "content": "hello"}]
Ask = Callable[..., Any]


def sync(models: Models, agent: str, model: str, **more: Any) -> Any:
    answer = completion(**asked(models, agent, model), **more)
    return list(answer) if more.get("stream") else answer


def later(models: Models, agent: str, model: str, **more: Any) -> Any:
    async def ask() -> Any:
        answer = await acompletion(**asked(models, agent, model), **more)
        return [part async for part in answer] if more.get("stream") else answer

    return asyncio.run(ask())


def routed(models: Models, agent: str, model: str, **more: Any) -> Any:
    call = asked(models, agent, model)
    where = {name: call.pop(name) for name in ("model", "api_base", "api_key")}
    router = litellm.Router(model_list=[{"model_name": "ours", "litellm_params": where}])
    return named(router.completion)(model="ours", **call, **more)


def asked(models: Models, agent: str, model: str) -> dict[str, Any]:
    vendor, _, _ = model.rpartition("/")
    base = {"gemini": f"{models.url}/v1beta/models/{model.partition('/')[2]}"}.get(vendor, f"{models.url}/v1")
    return {"model": model, "api_base": base, "api_key": "none", "messages": MESSAGES, "metadata": {"agent_id": agent}}


@pytest.mark.parametrize("ask", [sync, later, routed])
def test_s3_one_agent_is_stopped_and_the_other_goes_on(ask: Ask, models: Models, agents: Agents) -> None:
    agents.stop("Strict_Critic-9c90f6")
    stopped = tagout.find_stop(refused(lambda: ask(models, "Strict Critic!", f"openai/plain-critic-{ask.__name__}"))[0])
    assert stopped is not None and stopped.tag == "a test"
    assert models.requests[f"plain-critic-{ask.__name__}"] == 0
    assert ask(models, "writer", f"openai/plain-writer-{ask.__name__}").choices[0].message.content
    assert models.requests[f"plain-writer-{ask.__name__}"] == 1


@pytest.mark.parametrize("ask", [sync, later])
@pytest.mark.parametrize("vendor", ["openai", "gemini"])
def test_s3_only_the_stream_of_the_agent_that_is_stopped_is_cut(
    vendor: str, ask: Ask, models: Models, agents: Agents
) -> None:
    """Also by providers that LiteLLM asks when the first part is wanted."""
    works = {}
    for name in ("first", "second"):
        model = f"stream-{name}-{vendor}-{ask.__name__}"
        works[name] = Work(lambda: ask(models, f"{name}-{vendor}-{ask.__name__}", f"{vendor}/{model}", stream=True))
        wait_for(lambda: models.words[model] > 3 or works[name].error, "the stream to be under way")
    for name, work in works.items():
        agents.stop(f"{name}-{vendor}-{ask.__name__}")
        work.wait()
        stopped = tagout.find_stop(work.error)
        assert stopped is not None and stopped.cut, repr(work.error)
        assert name == "second" or works["second"].thread.is_alive()


def test_the_example_stops_one_of_two_agents(deployment: Deployment, models: Models) -> None:
    agent = next(deployment.agents)
    with running("litellm_agent.py", agent, "openai/stream-example", deployment, models) as example:
        example.wait_for("writer: word", 3)
        example.wait_for("critic: word", 3)
        deployment.stop(f"{agent}/critic")
        example.wait_for("critic: [stopped: ")
        example.wait_for("writer: word", example.printed.count("writer: word") + 3)
    assert models.requests["stream-example"] == 2
