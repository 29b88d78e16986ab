"""`install()`: every model call of the process asks for consent first, whichever framework makes it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable

from tagout._guard import Client, Guard
from tagout._install import aiohttp_, http_client, httpcore_, mcp_, threads
from tagout._install.endpoints import Endpoints, Predicate
from tagout._install.installed import Installed, Records, installation
from tagout._install.patches import Patches
from tagout._install.raised import forget

_LIBRARIES: tuple[Callable[[Patches], None], ...] = (
    httpcore_.patch,
    aiohttp_.patch,
    http_client.patch,
    threads.patch,
)
# What only records need.
_RECORDED: tuple[Callable[[Patches], None], ...] = (aiohttp_.patch_recorded, http_client.patch_recorded)
_changing = threading.Lock()
_log = logging.getLogger("tagout")


def install(
    agent: str | None = None,
    *,
    client: Client | None = None,
    hosts: Iterable[str] = (),
    paths: Iterable[str] = (),
    predicate: Predicate | None = None,
    records: Records | None = None,
    tools: bool = True,
    ready_s: float = 10.0,
) -> Guard:
    """Puts every model call of this process under the guard of `agent`, or of the one that `TAGOUT_AGENT` names.

    It covers httpx, httpx2, aiohttp and http.client with requests and urllib3, also clients and connections that are there
    already. Requests to the big providers' hosts and to OpenAI- and Anthropic-compatible paths are model calls; `hosts`
    (``"models.example"``, ``"models.example:8443"``, ``".example"`` for all below) and `paths` (regular expressions that
    are searched in the path) add to these, and a `predicate` of host, port and path decides in their place. Everything else
    passes untouched.

    Tool calls by the `mcp` package are guarded too, since an agent that is stopped must not act; `tools=False` leaves them be.

    A model call that is refused is not sent, and one that is cut ends where it stands: both raise `TagoutStopped`, which
    `find_stop` finds in what a framework makes of it. Without `client` it makes one from the environment. It waits up to
    `ready_s` seconds for the service's answer; without an answer, calls are refused until one comes.

    `records` has one record made of each model call, also of those that are refused or cut: a path, or the one that
    `TAGOUT_RECORDS` names, takes them as JSON lines; ``tagout.records.JsonLines`` and ``Spans`` can do more, and any function
    of a `tagout.records.Record` does. Nothing that goes wrong there touches a call. A path that cannot be opened is an `OSError`.

    Called again with the same arguments it gives the same guard; with others it raises `RuntimeError`, until `uninstall()`.
    Without an agent or without configuration it raises `ValueError`: do not go on then.
    """
    agent = agent or os.environ.get("TAGOUT_AGENT")
    records = records or os.environ.get("TAGOUT_RECORDS") or None
    if not agent:
        raise ValueError('no agent is named: say tagout.install(agent="…"), or set TAGOUT_AGENT')
    endpoints = Endpoints(tuple(hosts), tuple(paths), predicate)
    with _changing:
        installed = installation.current
        if installed is not None:
            differs = installed.differs(agent, endpoints, client, records, tools)
            if differs:
                raise RuntimeError(
                    f"tagout is installed already, for {installed.agent}, with other arguments ({'; '.join(differs)}): call "
                    'tagout.uninstall() first, or name the agent of a part of the program by `with tagout.agent("…"):`'
                )
            return installed.guard_of(agent)
        installed = Installed(agent, endpoints, client, records, tools, ready_s)
        guard = installed.guard_of(agent)
        stopped = guard.state().stopped
        if stopped is not None and stopped.code == "not_enrolled":
            _log.warning("every call will be refused: %s", stopped)
        patches = Patches()
        try:
            for patch in _LIBRARIES if records is None else (*_LIBRARIES, *_RECORDED):
                patch(patches)
            if tools:
                mcp_.patch(patches)
        except BaseException:
            patches.undo()
            raise
        installation.current, installation.patches = installed, patches
        return guard


def uninstall() -> None:
    """Takes away all that `install()` has put in. Calls under way stay under their guard, and are recorded, until they end."""
    with _changing:
        patches = installation.patches
        installation.current = installation.patches = None
        if patches is not None:
            patches.undo()
            forget()
