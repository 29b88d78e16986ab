"""CrewAI's agents: `Agent` of this module in place of CrewAI's."""

from __future__ import annotations

import inspect
from typing import Any

import crewai
from crewai.hooks import ToolCallHookContext, register_before_tool_call_hook

from tagout._install.acting import below, current_guard
from tagout._install.installed import installation


class Agent(crewai.Agent):
    """What it does is done by an agent of Tagout's that is named as its role.

    Its tools are refused while that is stopped. CrewAI runs them in threads, also asynchronous ones, so they are not cut: a task
    is under way until it has ended, and raises `TagoutStopped` then.
    """

    def execute_task(self, *args: Any, **named: Any) -> Any:
        # CrewAI comes here again for a task that has failed: then it is refused.
        with below(self.role) as guard, guard.call():
            result = super().execute_task(*args, **named)
            # A tool that was refused may have been taken for the answer.
            guard.check()
            return result

    async def aexecute_task(self, *args: Any, **named: Any) -> Any:
        async with below(self.role) as guard:
            with guard.call():
                result = await super().aexecute_task(*args, **named)
                guard.check()
                return result

    def kickoff(self, *args: Any, **named: Any) -> Any:
        with below(self.role) as guard, guard.call():
            result = super().kickoff(*args, **named)
            # In a flow it is that of `kickoff_async()`, and has not begun.
            if not inspect.isawaitable(result):
                guard.check()
            return result

    async def kickoff_async(self, *args: Any, **named: Any) -> Any:
        async with below(self.role) as guard:
            with guard.call():
                result = await super().kickoff_async(*args, **named)
                guard.check()
                return result


def _may_run(_tool: ToolCallHookContext) -> bool | None:
    """`False` where it may not. CrewAI takes no notice of a hook that raises."""
    try:
        if installation.current is not None:
            current_guard().check()
    except Exception:
        return False
    return None


register_before_tool_call_hook(_may_run)
