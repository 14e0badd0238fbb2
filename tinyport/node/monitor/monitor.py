"""The monitor: root where it can be, always there, and it parses nothing that comes from the network.

It binds the listening sockets, forks link, starts keepers when link asks for one, starts again what dies, and has the
certificates renewed. The launcher ``exec``s into it with the configuration on a memory file.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import signal
import time

from tinyport.core.errors import OperatorError, TinyportError, Unavailable
from tinyport.host import identity_before
from tinyport.host.files import write_private
from tinyport.host.locked_memory import pin, swaps_to_disk
from tinyport.host.logging_line import Log
from tinyport.host.sd_notify import keep_alive, notify, store, withdraw
from tinyport.host.shutting_down import goes_down
from tinyport.node import identity_view
from tinyport.node.loop import Loop
from tinyport.node.monitor import status as monitor_status
from tinyport.node.monitor.generations import Generations
from tinyport.node.monitor.keeper import KeeperProcess
from tinyport.node.monitor.link import Inheritance, LinkProcess, log_words
from tinyport.node.monitor.listen import Listeners
from tinyport.node.monitor.reached import Reached
from tinyport.node.monitor.reload import Changes, Reload
from tinyport.node.monitor.renewal import Renewal, take
from tinyport.node.python_process import name_process

MAX_CONFIGURATION = 1024 * 1024
# A session that ignores SIGHUP is killed after five seconds, and its end is to be told.
STOP_LIMIT = 8.0
# A predecessor that is just stopping.
LOCK_LIMIT = 2.0


class Monitor:
    """Order: made (binds, which may fail), ``run`` until SIGTERM. Owns every other process of the node."""

    def __init__(self, config: dict[str, object]) -> None:
        # Which process this is, among all that were and will be this node (core.instances).
        config["instance"] = os.urandom(16).hex()
        self._config = config
        level, format = log_words(config)
        self._log = Log("node.monitor", level, format)
        self._folder_name = str(config["folder"])
        self._folder = os.open(self._folder_name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _lock(self._folder)
        public, secret = _pair(config["view"])
        self._view = (public, secret)
        self._listeners = Listeners([_address(item) for item in _items(config["listen"])], _items(config["passed"]))
        self._reached = Reached(self._folder_name, _address(config["server"]), self._log)
        self._given = Inheritance(
            config, identity_view.read_public(public), secret, self._listeners.streams, self._reached.places
        )
        self.loop = Loop()
        self._status = monitor_status.StatusSocket(self.loop, self._folder, self.describe, self._log)
        self._state: dict[str, object] = {"tunnel": "down", "since": time.time(), "reason": "starting"}
        self._ready = False
        #: a tunnel has stood with the certificate of today
        self._proved = False
        self._stopping = False
        #: sessions end with us, instead of staying with their keepers
        self._ending = False
        search_path = [str(entry) for entry in _items(config["search_path"])]
        self._link = LinkProcess(
            self.loop,
            self._folder,
            self._given,
            heard=self._hear_link,
            started=self._link_started,
            ended=self._link_ended,
            leave_behind=self._leave_behind,
            log=self._log,
        )
        self._keeper = KeeperProcess(
            self.loop, config, search_path, self._give_keeper, lambda: self._generations.census(), self._log
        )
        self._generations = Generations(
            self.loop, self._folder, self._link.tell, self._stopped, lambda: self._keeper.names, self._log
        )
        self._reload = Reload(self.loop, config.get("reread"), self._reloaded, self._not_reloaded, self._log)
        task = {
            "mode": "renew",
            "identity": f"{self._folder_name}/identity.json",
            "servers": self._reached.servers(),
            "instance": config["instance"],
            "in_memory": bool(config.get("in_memory")),
            "boot": config.get("boot"),
            "log": config["log"],
        }
        self._task = task
        memory = config.get("identity_memory")
        #: the memory file with the identity, which is not read here
        self._memory = memory if isinstance(memory, int) else None
        self._pinned: list[object] = []
        #: why the disk did not take what the last renewal brought
        self._unsaved = ""
        #: does the service manager have it, too?
        self._stored = False
        self._renewal = Renewal(
            self.loop, self._given.public, task, search_path, self._renewed, self._log, self._memory
        )

    def run(self) -> None:
        """Serve until told to stop."""
        self.loop.watch_children()
        signal.signal(signal.SIGTERM, lambda number, frame: self.loop.after(0, self.stop))
        # Somebody at a terminal, who wants all of it to end.
        signal.signal(signal.SIGINT, lambda number, frame: self.loop.after(0, lambda: self.stop(ending=True)))
        signal.signal(signal.SIGHUP, lambda number, frame: self.loop.after(0, self._asked_to_reload))
        self._log.info(
            "node starts",
            name=self._given.public["name"],
            cluster=self._given.public["cluster"],
            listen=",".join(self._listeners.addresses()) or "tunnel",
        )
        if self._config.get("in_memory"):
            self._keep_in_memory()
        _preload()
        self._link.start()
        self._renewal.start()
        # It listens; its tunnel may take as long as the network does.
        notify("READY=1\nSTATUS=tunnel down")
        keep_alive(self.loop.after)
        self.loop.run()

    # ------------------------------------------------------------------ link

    def _link_started(self) -> None:
        # Keepers that outlived their link wait for the next one.
        self._keeper.offer()
        self._generations.offer()

    def _leave_behind(self) -> None:
        """In a fork that becomes link: what is not its business."""
        self._status.close()
        self._keeper.forget()
        self._generations.close()
        os.close(self._folder)
        os.close(self._view[0])

    def _hear_link(self, message: dict[str, object]) -> None:
        op = message.get("op")
        if op == "keeper":
            self._keeper.wanted()
        elif op == "renew":
            self._task["servers"] = self._reached.servers(message.get("server"))
            self._renewal.wanted()
        elif op == "renew now":
            self._renewal.hurry()
        elif op == "renew before":
            self._renewal.asked(message.get("renew"))
        elif op == "took":
            self._generations.took(message.get("name"))
        elif op == "state":
            self._link_state(message)

    def _give_keeper(self, end: int) -> None:
        self._link.tell({"op": "keeper"}, (end,))

    def _link_state(self, message: dict[str, object]) -> None:
        self._state = {name: message.get(name) for name in ("tunnel", "since", "server", "proxy", "tunnels", "reason")}
        self._reached.note(message.get("tunnels"))
        self._judge(message.get("generation"), message.get("tunnels"))
        self._task["servers"] = self._reached.servers()
        offset = message.get("offset")
        if isinstance(offset, (int, float)) and not isinstance(offset, bool):
            self._renewal.confirm(float(offset))
        notify(f"STATUS=tunnel {self._state['tunnel']}")
        if self._state["tunnel"] == "up" and not self._ready:
            self._ready = True
            self._tell_ready()

    def _judge(self, generation: object, tunnels: object) -> None:
        """Does a tunnel stand with the certificate of today? Then there is no way back to the one before."""
        standing = [tunnel for tunnel in tunnels if isinstance(tunnel, dict)] if isinstance(tunnels, list) else []
        if self._proved or generation != self._given.public["generation"]:
            return
        if any(not tunnel.get("before") for tunnel in standing):
            self._proved = True
            self._renewal.proved()
            if self._given.before is not None:
                os.close(self._given.before)
                self._given.before = None
            try:
                identity_before.drop(self._folder_name)
            except OSError as error:
                # It ends with its certificate.
                self._log.warning("the identity of before could not be removed", reason=error)

    def _tell_ready(self) -> None:
        """For who started us: it listens, and its first tunnel is up."""
        text = json.dumps(
            {
                "listen": self._listeners.addresses(),
                "pid": os.getpid(),
                "uuid": self._given.public["uuid"],
                "name": self._given.public["name"],
            }
        ).encode()
        name, descriptor = self._config["ready_file"], self._config["ready_fd"]
        try:
            if isinstance(name, str):
                write_private(name, text)
            if isinstance(descriptor, int):
                os.write(descriptor, text + b"\n")
                os.close(descriptor)
        except OSError as error:
            self._log.warning("cannot tell that the node is ready", reason=error)

    def _link_ended(self) -> None:
        self._state = {"tunnel": "down", "since": time.time(), "reason": "link is started again"}
        self._stopped()

    # ------------------------------------------------------------------ identity

    def _keep_in_memory(self) -> None:
        """The keys lie nowhere else: not in swap either, and not gone when only this service is restarted."""
        assert self._memory is not None
        store(identity_view.STORED, self._memory)
        self._stored = True
        self._pin()
        disks = swaps_to_disk()
        if disks and not all(self._pinned):
            self._log.warning("keys may be swapped to a disk: they cannot be locked in memory", swap=",".join(disks))

    def _pin(self) -> None:
        held = [pin(descriptor) for descriptor in (self._memory, self._view[1]) if descriptor is not None]
        self._pinned = list(held)

    def _put_aside(self) -> None:
        """The view is about to be replaced. With the keys in memory, what goes back to the certificate of before is
        this (host.identity_before), unless nothing has stood since that was kept. Who renewed has kept the public half,
        or none, and that says whose."""
        public, secret = self._view
        os.close(public)
        kept = identity_before.read(self._folder_name) if self._config.get("in_memory") else None
        this = kept is not None and kept.get("generation") == self._given.public["generation"]
        if self._given.before is not None and (kept is None or this):
            os.close(self._given.before)
            self._given.before = None
        if this:
            self._given.before = secret
        else:
            os.close(secret)

    def _keys(self) -> dict[str, object]:
        """Where the keys are: whether in memory alone, out of swap, and why the disk does not have them."""
        in_memory = bool(self._config.get("in_memory"))
        locked = in_memory and bool(self._pinned) and None not in self._pinned
        return {"in_memory": in_memory, "locked": locked, "unsaved": self._unsaved}

    def _renewed(self, view: tuple[int, int], unsaved: str) -> None:
        public = take(view, self._log)
        if public is None:
            for descriptor in view:
                os.close(descriptor)
            return
        self._put_aside()
        self._view = view
        self._unsaved = unsaved
        another = public["uuid"] != self._given.public["uuid"]
        self._given.public, self._given.secret = public, view[1]
        self._proved = False
        self._renewal.replaced(public)
        if self._config.get("in_memory"):
            self._pin()
        elif unsaved and self._memory is not None:
            store(identity_view.STORED, self._memory)
            self._stored = True
            self._log.warning("the disk does not take the new certificate; it is kept in memory", reason=unsaved)
        elif self._stored:
            withdraw(identity_view.STORED)
            self._stored = False
        self._log.info("certificate renewed", generation=public["generation"], valid_before=public["valid_before"])
        if another:
            # We had another device's identity, and have our own now.
            self._log.warning("this device is a node of its own now", name=public["name"], uuid=public["uuid"])
            self._keeper.replace(self._config)
        # Link takes the new certificate with its successor; sessions are the keeper's and do not notice.
        self._link.renew()

    # ------------------------------------------------------------------ another configuration

    def _asked_to_reload(self) -> None:
        # sd_notify(3): systemd takes a READY=1 for the answer only when it knows when we began.
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self._reload.start()

    def _reloaded(self, read: dict[str, object]) -> None:
        """Take over what can change while people are here; they keep what their sessions began with."""
        changes = Changes(self._config, read)
        for key in changes.refused:
            self._log.warning("this changes only with a restart of the node", key=key)
        try:
            listens_elsewhere = self._listeners.change([_address(item) for item in _items(changes.config["listen"])])
        except OperatorError as error:
            self._log.error("the node goes on with the configuration that it has", reason=error, hint=error.hint)
            self._not_reloaded()
            return
        self._config = self._given.config = changes.config
        self._given.listeners = self._listeners.streams
        self._log.change(*log_words(changes.config))
        if changes.of_keeper:
            self._keeper.replace(changes.config)
        if changes.of_keeper or changes.of_link or listens_elsewhere:
            self._link.renew()
        else:
            self._link.tell({"op": "reload"})
        self._log.info(
            "configuration read again",
            changed=",".join(sorted(changes.keys)) or "nothing",
            listen=",".join(self._listeners.addresses()) or "tunnel",
        )
        notify("READY=1")

    def _not_reloaded(self) -> None:
        notify("READY=1\nSTATUS=the new configuration is wrong, see the log")

    # ------------------------------------------------------------------ ends

    def stop(self, *, ending: bool = False) -> None:
        """Stop. As root, keepers stay with their sessions and look for our successor, unless the machine goes down or
        ``ending`` says that nothing may stay.
        """
        if self._stopping:
            return
        self._stopping = True
        self._ending = ending or self._config["user"] is None or goes_down()
        notify("STOPPING=1")
        self._log.info("node stops", sessions="end" if self._ending else "go on")
        self.loop.after(STOP_LIMIT, self._too_slow)
        self._renewal.stop()
        self._keeper.stop(self._stopped, ending=self._ending)
        if self._ending:
            # Link last: it carries what they have to say.
            self._generations.end_sessions()
        else:
            self._generations.close()
            self._link.stop()
        self._stopped()

    def _stopped(self) -> None:
        """Something has ended: was it the last?"""
        if not self._stopping or not self._keeper.may_leave or (self._ending and len(self._generations)):
            return
        if self._link.pid:
            self._link.stop()
            return
        self.loop.stop()
        self._generations.withdraw()
        self._status.close()
        try:
            os.unlink(monitor_status.SOCKET, dir_fd=self._folder)
        except OSError:
            return

    def _too_slow(self) -> None:
        self._log.warning("not everything stopped in time")
        self._link.give_up()
        self._keeper.give_up()
        self.loop.after(0.5, self.loop.stop)

    # ------------------------------------------------------------------ status

    def describe(self) -> dict[str, object]:
        """What ``tinyport status`` shows."""
        keeper = self._keeper.pid
        workers = monitor_status.workers_of(keeper) if keeper else []
        old = self._generations.describe()
        pids = [pid for pid in (os.getpid(), self._link.pid, keeper, *workers) if pid]
        now = self._renewal.now()
        public = self._given.public
        return {
            "version": self._config["version"],
            "pid": os.getpid(),
            "pids": {
                "monitor": os.getpid(),
                "link": self._link.pid or None,
                "keeper": keeper or None,
                "workers": workers,
            },
            "sessions": monitor_status.sessions_of(keeper) if keeper else 0,
            "old_keepers": old,
            "tunnel": self._state,
            "cluster": public["cluster"],
            "name": public["name"],
            "uuid": public["uuid"],
            "listen": self._listeners.addresses(),
            "valid_before": public["valid_before"],
            "generation": public["generation"],
            "keys": self._keys(),
            "skew": None if now is None or self._renewal.offset is None else round(time.time() - now, 1),
            "memory": {str(pid): monitor_status.memory(pid) for pid in pids},
            "lacks": {
                **{str(pid): monitor_status.lacks(pid, enclosed=False) for pid in [self._link.pid] if pid},
                **{str(pid): monitor_status.lacks(pid, enclosed=True) for pid in workers},
            },
        }


def _preload() -> None:
    """Load what link needs into pages that both share: 2 MB less than when link loads it. Nothing of it runs here;
    docs/decisions/0005-the-monitor-loads-links-code.md.
    """
    import hashlib  # noqa: F401 - the tunnel's handshake needs it

    import tinyport.node.link.link  # noqa: F401

    # Whatever is there now stays, so that the garbage collector does not write to the shared pages.
    gc.collect()
    gc.freeze()


def _lock(folder: int) -> None:
    """One monitor for one folder. Waits a moment for a predecessor that is stopping."""
    end = time.monotonic() + LOCK_LIMIT
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise Unavailable(
                    "another node is running with the same data_dir", hint="tinyport status shows it"
                ) from None
            time.sleep(0.05)


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _address(value: object) -> tuple[str, int]:
    host, port = _items(value)
    return str(host), int(str(port))


def _pair(value: object) -> tuple[int, int]:
    first, second = _items(value)
    return int(str(first)), int(str(second))


def main(descriptor: int) -> None:
    """Be the monitor of the configuration (JSON) in the memory file ``descriptor``."""
    name_process("tinyport-monitor")
    config = json.loads(os.pread(descriptor, MAX_CONFIGURATION, 0))
    os.close(descriptor)
    memory = [] if config.get("identity_memory") is None else [config["identity_memory"]]
    for inherited in (*config["view"], *memory, *([config["ready_fd"]] if config["ready_fd"] is not None else [])):
        os.set_inheritable(inherited, False)
    try:
        Monitor(config).run()
    except TinyportError as error:
        hint = f"tinyport: hint: {error.hint}\n" if error.hint else ""
        os.write(2, f"tinyport: error: {error.message}\n{hint}".encode())
        raise SystemExit(1) from None
