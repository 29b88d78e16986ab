"""smolagents' agents: `ToolCallingAgent` and `CodeAgent` of this module in place of smolagents'."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import smolagents
from smolagents import ActionStep, LocalPythonExecutor, PythonExecutor

from tagout._guard import Guard
from tagout._install.acting import below, current_guard, tool as guarded
from tagout._stopped import find_stop


class Guarded:
    """For an agent's class, before smolagents': what it does is done by an agent of Tagout's of the same name.

    Without a name it is done by who runs it. Its tools and code are refused while that is stopped, and under way until they have
    ended. A stop of an agent that it manages ends its run, too.
    """

    name: str | None
    step_callbacks: Any

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.step_callbacks.register(ActionStep, _raise_stop)

    def run(self, *args: Any, **named: Any) -> Any:
        with self._acting() as guard:
            result = super().run(*args, **named)  # type: ignore[misc]
            if isinstance(result, Generator):
                return self._steps(result)
            # After its last step smolagents makes an answer of any error.
            guard.check()
            return result

    def _steps(self, steps: Generator[Any, None, None]) -> Generator[Any, None, None]:
        try:
            while True:
                with self._acting() as guard:
                    try:
                        step = next(steps)
                    except StopIteration:
                        guard.check()
                        return
                yield step
        finally:
            steps.close()

    def _acting(self) -> AbstractContextManager[Guard]:
        return nullcontext(current_guard()) if self.name is None else below(self.name)


class ToolCallingAgent(Guarded, smolagents.ToolCallingAgent):
    def execute_tool_call(self, *args: Any, **named: Any) -> Any:
        return guarded(super().execute_tool_call)(*args, **named)


class CodeAgent(Guarded, smolagents.CodeAgent):
    python_executor: PythonExecutor

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.python_executor = _Executor(self.python_executor)


class _Executor(PythonExecutor):
    """Runs code only while who acts may, and the tools in it where it is run in this process."""

    def __init__(self, of: PythonExecutor) -> None:
        self._of = of

    def __call__(self, code_action: str) -> Any:
        return guarded(self._of)(code_action)

    def send_tools(self, tools: dict[str, Any]) -> None:
        if isinstance(self._of, LocalPythonExecutor):
            tools = {name: guarded(tool) for name, tool in tools.items()}
        self._of.send_tools(tools)

    def send_variables(self, variables: dict[str, Any]) -> None:
        self._of.send_variables(variables)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)


def _raise_stop(step: ActionStep) -> None:
    """smolagents would tell the model of it, and go on."""
    stopped = find_stop(step.error)
    if stopped is not None:
        raise stopped
