"""Lockout/tagout for AI agents: asks for consent before every model call, and fails closed."""

from tagout import records
from tagout._guard import Client, EssentialGuard, Guard
from tagout._install import install, uninstall
from tagout._install.acting import agent, tool
from tagout._native import Call, GuardedSocket, Watch
from tagout._state import State
from tagout._stopped import TagoutStopped, find_stop

__all__ = [
    "Call",
    "Client",
    "EssentialGuard",
    "Guard",
    "GuardedSocket",
    "State",
    "TagoutStopped",
    "Watch",
    "agent",
    "find_stop",
    "install",
    "records",
    "tool",
    "uninstall",
]
