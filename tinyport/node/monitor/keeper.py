"""The keeper as its parent sees it: started when link asks, given to link, started again. Light: monitor loads it."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time

from tinyport.node.generations import PROTOCOL
from tinyport.node.ipc import pair
from tinyport.node.loop import Loop
from tinyport.node.python_process import arguments, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tinyport.host.logging_line import Log

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 30.0
GOOD_AFTER = 60.0
# A keeper without sessions leaves within milliseconds; one with sessions stays behind us.
STOP_PATIENCE = 0.5


def configuration(config: Mapping[str, object], search_path: list[str]) -> dict[str, object]:
    """What the keeper is told on its fd 4 (docs/protocol/node.md)."""
    folder = str(config["folder"])
    return {
        "protocol": PROTOCOL,
        "folder": folder,
        "paths": search_path,
        "identity": f"{folder}/identity.json",
        "policy": f"{folder}/policy.json",
        "node": f"{folder}/node.json",
        "floor": f"{folder}/floor",
        "worker_user": config["worker_user"],
        "pam": config["pam"],
        "worker_idle": config["worker_idle"],
        "keeper_idle": config["keeper_idle"],
        "connections_per_worker": config["connections_per_worker"],
        "banner": config["banner"],
        "log": config["log"],
        "limits": {
            "memory": config["memory_limit"],
            **{name: config.get(name) for name in ("login_grace", "client_alive", "startups", "sessions")},
        },
        "privileged": config["user"] is not None,
        "instance": config.get("instance", ""),
        # On its fd 5.
        "identity_memory": config.get("identity_memory") is not None,
        "lock_memory": bool(config.get("in_memory")),
    }


class KeeperProcess:
    """At most one keeper at a time. ``give(descriptor)`` hands link the keeper's other end, which stays ours, too, so
    that a link that is started again gets the keeper with its sessions.
    """

    def __init__(
        self,
        loop: Loop,
        config: Mapping[str, object],
        search_path: list[str],
        give: Callable[[int], None],
        died: Callable[[], None],
        log: Log,
    ) -> None:
        """``died``: called when one has, and has perhaps not told of its sessions' ends."""
        self._loop = loop
        self._search_path = search_path
        self._told = configuration(config, search_path)
        memory = config.get("identity_memory")
        self._memory = [memory] if isinstance(memory, int) else []
        self._argv = arguments("tinyport.node.keeper.process", search_path)
        self._give = give
        self._died = died
        self._log = log
        self.pid = 0
        #: pid → name, those of an earlier configuration among them
        self._names: dict[int, str] = {}
        self._replaced: set[int] = set()
        self._end: socket.socket | None = None
        self._wanted = False
        self._pause = FIRST_PAUSE
        self._started = 0.0
        self._not_before = 0.0
        self._stopping = False
        self._ending = self._waited = False
        self._stopped: Callable[[], None] = lambda: None

    def wanted(self) -> None:
        """Link asks for a keeper: the running one, or a new one."""
        if self._stopping:
            return
        if self.pid:
            if self._leaving():
                # Its successor starts when it has ended: there is one at a time, as each owns the documents.
                self._wanted = True
            else:
                self.offer()
            return
        wait = self._not_before - time.monotonic()
        if wait <= 0:
            self._start()
        elif not self._wanted:
            self._wanted = True
            self._loop.after(wait, self._due)

    def offer(self) -> None:
        """Give link the running keeper, if there is one."""
        if self._end is not None and not self._leaving():
            self._give(self._end.fileno())

    def _due(self) -> None:
        if self._wanted and not self.pid and not self._stopping:
            self._start()

    def _leaving(self) -> bool:
        """Has the running keeper closed its end?"""
        if self._end is None:
            return True
        poll = select.poll()
        poll.register(self._end.fileno(), 0)
        return bool(poll.poll(0))

    def _start(self) -> None:
        self._wanted = False
        ours, theirs = pair()
        name = os.urandom(8).hex()
        told = os.memfd_create("tinyport-configuration", os.MFD_CLOEXEC)
        try:
            os.write(told, json.dumps({**self._told, "name": name}).encode())
            os.lseek(told, 0, os.SEEK_SET)
            self.pid = spawn(self._argv, [theirs.fileno(), told, *self._memory])
        except OSError as error:
            self._log.error("cannot start a keeper", reason=error)
            ours.close()
            self._later()
            return
        finally:
            theirs.close()
            os.close(told)
        self._started = time.monotonic()
        self._end = ours
        pid = self.pid
        self._names[pid] = name
        self._loop.child(pid, lambda status: self._ended(pid, status))
        self._give(ours.fileno())

    def _later(self) -> None:
        self._not_before = time.monotonic() + self._pause
        self._wanted = True
        self._loop.after(self._pause, self._due)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _ended(self, pid: int, status: int) -> None:
        self._names.pop(pid, None)
        if pid != self.pid:
            self._replaced.discard(pid)
            if self._stopping:
                self._stopped()
            return
        self.pid = 0
        if self._end is not None:
            self._end.close()
            self._end = None
        code = os.waitstatus_to_exitcode(status)
        if code == 0 or time.monotonic() - self._started > GOOD_AFTER:
            self._pause = FIRST_PAUSE
        if code:
            self._log.error("the keeper died", status=code)
            self._died()
            self._not_before = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
        if self._stopping:
            self._stopped()
        elif self._wanted:
            self._wanted = False
            self.wanted()

    @property
    def names(self) -> list[str]:
        """Of all keepers that we have started and that live."""
        return list(self._names.values())

    # ------------------------------------------------------------------ ends

    def replace(self, config: Mapping[str, object]) -> None:
        """What keepers are told from now on. The running one, once link has let go of it, too, is like one of an
        earlier monitor: it takes nothing more, and stays for its sessions.
        """
        self._told = configuration(config, self._search_path)
        self.forget()
        if self.pid:
            self._replaced.add(self.pid)
        self.pid = 0

    def forget(self) -> None:
        """Close our copy of its line, in a forked child, or at our end."""
        if self._end is not None:
            self._end.close()
            self._end = None

    def stop(self, stopped: Callable[[], None], *, ending: bool) -> None:
        """Let go of it, or have it end its sessions; ``stopped`` is called when it has ended, or need not."""
        self._stopping = True
        self._ending = ending
        self._stopped = stopped
        if ending:
            for pid in self._ours():
                self._loop.kill(pid, signal.SIGTERM)
        elif self.pid:
            self.forget()
            self._loop.after(STOP_PATIENCE, self._patience_over)

    def _patience_over(self) -> None:
        self._waited = True
        self._stopped()

    @property
    def may_leave(self) -> bool:
        return not self._ours() if self._ending else self._waited or not self.pid

    def _ours(self) -> list[int]:
        return [*self._replaced, *([self.pid] if self.pid else [])]

    def give_up(self) -> None:
        if self._ending:
            for pid in self._ours():
                self._loop.kill(pid, signal.SIGKILL)
