"""`@guard.protect`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, Protocol

from tagout import _cut
from tagout._native import Call, Gate, protected as native_protected


class CanCall(Protocol):
    """A gate, or what stands for one that is found when it is called."""

    def call(self) -> Call: ...


def protect(gate: CanCall, f: Callable[..., Any]) -> Callable[..., Any]:
    # What an object does when it is called, its class says.
    called = f if inspect.isroutine(f) or isinstance(f, functools.partial) else getattr(type(f), "__call__", f)
    if inspect.isasyncgenfunction(called):
        return functools.wraps(f)(_async_generator(gate, f))
    if inspect.iscoroutinefunction(called):
        return functools.wraps(f)(_coroutine(gate, f))
    if inspect.isgeneratorfunction(called):
        return functools.wraps(f)(_generator(gate, f))
    # As methods of OpenAI's and Anthropic's asynchronous clients are.
    if inspect.iscoroutinefunction(inspect.unwrap(called)) or not isinstance(gate, Gate):
        return functools.wraps(f)(_either(gate, f))
    return functools.wraps(f)(native_protected(gate, f))


def _coroutine(gate: CanCall, f: Callable[..., Any]) -> Callable[..., Any]:
    async def protected(*args: Any, **kwargs: Any) -> Any:
        with gate.call() as call:
            return await _cut.under(call, f(*args, **kwargs))

    return protected


def _either(gate: CanCall, f: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function around a coroutine function: what it gives decides how long the call is under way."""

    def protected(*args: Any, **kwargs: Any) -> Any:
        call = gate.call()
        try:
            result = f(*args, **kwargs)
        except BaseException:
            call.close()
            raise
        if not inspect.isawaitable(result):
            call.close()
            return result
        return _rest(call, result)

    return protected


async def _rest(call: Call, result: Awaitable[Any]) -> Any:
    with call:
        return await _cut.under(call, result)


def _generator(gate: CanCall, f: Callable[..., Any]) -> Callable[..., Any]:
    def protected(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with gate.call() as call:
            generator = f(*args, **kwargs)
            try:
                step, value = generator.send, None
                while True:
                    call.check()
                    try:
                        item = step(value)
                    except StopIteration as stop:
                        return stop.value
                    call.check()
                    try:
                        step, value = generator.send, (yield item)
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        step, value = generator.throw, error
            finally:
                generator.close()

    return protected


def _async_generator(gate: CanCall, f: Callable[..., Any]) -> Callable[..., Any]:
    async def protected(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        with gate.call() as call:
            generator = f(*args, **kwargs)
            cutting = _cut.Cutting(call)
            try:
                step, value = generator.asend, None
                while True:
                    call.check()
                    try:
                        with cutting:
                            item = await step(value)
                    except StopAsyncIteration:
                        return
                    try:
                        step, value = generator.asend, (yield item)
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        step, value = generator.athrow, error
            finally:
                await generator.aclose()

    return protected
