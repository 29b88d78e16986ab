"""Times `guard.check()` and a function under `@guard.protect` beside an empty function and what other libraries ask by.

All take turns in one process, and ratios to the empty function are what counts. Every one of them lets its call begin:
the breakers are closed, the flags on, and the agent has consent from a live node.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

import agent_killswitch
import circuitbreaker
import openfeature.api
import pybreaker
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider
from UnleashClient import UnleashClient
from UnleashClient.cache import FileCache

import tagout

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from deployment import Deployment  # noqa: E402

ROUNDS = 40
TURN_S = 0.005


def empty() -> None:
    pass


def contenders(guard: tagout.Guard, folder: str) -> dict[str, Callable[[], object]]:
    killswitch = agent_killswitch.KillSwitch()
    openfeature.api.set_provider(InMemoryProvider({"agent": InMemoryFlag("on", {"on": True, "off": False})}))
    feature = openfeature.api.get_client()
    cache = FileCache("bench", directory=folder)
    flag = {"name": "agent", "enabled": True, "strategies": [{"name": "default"}]}
    cache.bootstrap_from_dict({"version": 1, "features": [flag]})
    unleash = UnleashClient("http://127.0.0.1:9", "bench", disable_metrics=True, disable_registration=True, cache=cache)
    unleash.initialize_client(fetch_toggles=False)
    permitted = {
        "an empty function": empty,
        "functools.partial, which only passes on": functools.partial(empty),
        "guard.check()": guard.check,
        "@guard.protect": guard.protect(empty),
        "@circuitbreaker.circuit": circuitbreaker.circuit(empty),
        "@pybreaker.CircuitBreaker()": pybreaker.CircuitBreaker()(empty),
        "openfeature-sdk, in memory": lambda: feature.get_boolean_value("agent", False),
        "UnleashClient.is_enabled": lambda: unleash.is_enabled("agent"),
        "agent-killswitch, check": lambda: killswitch.check("agent"),
        "@agent_killswitch.killswitch_protected": agent_killswitch.killswitch_protected(killswitch, agent_id="agent")(empty),
    }
    assert feature.get_boolean_value("agent", False) and unleash.is_enabled("agent")
    assert not killswitch.check("agent").is_killed
    return permitted


def measure(asked: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Nanoseconds a call, of each round."""
    timers = {name: timeit.Timer(ask) for name, ask in asked.items()}
    numbers = {name: max(1, int(TURN_S / (timer.timeit(1_000) / 1_000))) for name, timer in timers.items()}
    took: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(ROUNDS):
        for name, timer in timers.items():
            took[name].append(timer.timeit(numbers[name]) / numbers[name] * 1e9)
    return took


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        deployment = Deployment(Path(folder))
        try:
            os.environ.update(deployment.settings)
            client = tagout.Client()
            guard = client.guard("demo/agent_2/bench")
            guard.ready(30)
            took = measure(contenders(guard, folder))
        finally:
            deployment.end()
    unit = statistics.median(took["an empty function"])
    print(f"Python {sys.version.split()[0]}, {ROUNDS} rounds; ns a call, median (best)")
    for name, rounds in took.items():
        median = statistics.median(rounds)
        print(f"{name:40} {median:8.0f} ({min(rounds):.0f})  {median / unit:7.1f} ×")


if __name__ == "__main__":
    main()
