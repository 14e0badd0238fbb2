"""SIGHUP: the configuration read again, by a process that may parse it, and what changes by it. Light: the monitor
loads it.
"""

from __future__ import annotations

import json
import os

from tinyport.core.names import printable
from tinyport.node.loop import Loop
from tinyport.node.python_process import spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tinyport.host.logging_line import Log
    from tinyport.node.loop import Timer

MAX_ANSWER = 1024 * 1024
# Python's imports on a slow board, and a {serial} to be found out.
LIMIT = 60.0

#: what a running node cannot change: whose it is, where it lives, who its processes are
FIXED = ("folder", "server", "user", "worker_user", "in_memory")
#: what belongs to one start
_OWN = ("view", "identity_memory", "boot", "version", "search_path", "ready_file", "ready_fd", "reread", "passed")
#: what a keeper is told when it starts; its successor is told otherwise, and its sessions keep what they began with
OF_KEEPER = (
    "banner",
    "connections_per_worker",
    "keeper_idle",
    "log",
    "login_grace",
    "client_alive",
    "memory_limit",
    "pam",
    "sessions",
    "startups",
    "worker_idle",
)
OF_LINK = ("advertise", "commands", "labels", "log", "penalties", "penalty_exempt")


class Changes:
    """The difference between the running configuration and the one that was read.

    ``config``: the running one with all that can change; ``keys``: what does; ``refused``: what would take a restart.
    """

    __slots__ = ("config", "keys", "refused")

    def __init__(self, running: Mapping[str, object], read: Mapping[str, object]) -> None:
        differ = [key for key in read if key not in _OWN and read[key] != running.get(key)]
        self.refused = sorted(key for key in differ if key in FIXED)
        self.keys = frozenset(differ) - frozenset(FIXED)
        self.config = {**running, **{key: read[key] for key in self.keys}}

    @property
    def of_keeper(self) -> bool:
        return not self.keys.isdisjoint(OF_KEEPER)

    @property
    def of_link(self) -> bool:
        return not self.keys.isdisjoint(OF_LINK)


class Reload:
    """``found(configuration)`` is called with what was read, ``failed()`` after the log was told why there is none."""

    def __init__(
        self,
        loop: Loop,
        how: object,
        found: Callable[[dict[str, object]], None],
        failed: Callable[[], None],
        log: Log,
    ) -> None:
        """``how``: ``{"argv", "task"}`` from the launcher (node.settings.Reread), or None."""
        self._loop = loop
        self._how = how
        self._found = found
        self._failed = failed
        self._log = log
        self._answer = -1
        self._limit: Timer | None = None
        self._once_more = False
        self.pid = 0

    def start(self) -> None:
        """Read it. While that goes on, another wish is remembered."""
        if self.pid:
            self._once_more = True
            return
        if not isinstance(self._how, dict):
            self._refuse(["this node was started without a configuration that could be read again"])
            return
        task = os.memfd_create("tinyport-task", os.MFD_CLOEXEC)
        self._answer = os.memfd_create("tinyport-answer", os.MFD_CLOEXEC)
        try:
            os.write(task, json.dumps(self._how["task"]).encode())
            self.pid = spawn([str(word) for word in self._how["argv"]], [self._answer, task])
        except OSError as error:
            self._close()
            self._refuse([f"cannot start a process: {error}"])
            return
        finally:
            os.close(task)
        self._loop.child(self.pid, self._ended)
        pid = self.pid
        self._limit = self._loop.after(LIMIT, lambda: self._loop.kill(pid, 9))

    def _ended(self, status: int) -> None:
        self.pid = 0
        if self._limit is not None:
            self._limit.cancel()
        try:
            answer = json.loads(os.pread(self._answer, MAX_ANSWER, 0))
        except (ValueError, RecursionError):
            answer = None
        self._close()
        if self._once_more:
            self._once_more = False
            self.start()
        elif isinstance(answer, dict) and isinstance(answer.get("configuration"), dict):
            self._found(answer["configuration"])
        else:
            problems = answer.get("problems") if isinstance(answer, dict) else None
            self._refuse(problems if isinstance(problems, list) else [f"the process ended with status {status}"])

    def _refuse(self, problems: list[object]) -> None:
        for problem in problems:
            self._log.error("the configuration is not taken", problem=printable(str(problem), 400))
        self._log.error("the node goes on with the configuration that it has", hint="tinyport check-config FILE")
        self._failed()

    def _close(self) -> None:
        os.close(self._answer)
        self._answer = -1
