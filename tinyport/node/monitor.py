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
import socket
import sys
import time

from tinyport.core.errors import OperatorError, TinyportError, Unavailable
from tinyport.core.names import format_address
from tinyport.host.files import read_limited, write_private
from tinyport.host.logging_line import Log
from tinyport.host.sd_notify import notify
from tinyport.node import identity_view, monitor_status
from tinyport.node.ipc import Channel, pair
from tinyport.node.loop import READ, WRITE, Loop
from tinyport.node.monitor_keeper import KeeperProcess
from tinyport.node.monitor_renewal import Renewal, take
from tinyport.node.python_process import name_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from tinyport.node.loop import Timer

MAX_CONFIGURATION = 1024 * 1024
# A kernel whose queue is full drops SYNs, and the next try is a second later; net.core.somaxconn bounds it.
BACKLOG = 1024
# docs/protocol/node.md
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 30.0
# What ran for so long did not die of its start.
GOOD_AFTER = 60.0
STOP_LIMIT = 5.0
# A predecessor that is just stopping.
LOCK_LIMIT = 2.0
MAX_DOCUMENT_FILE = 4 * 1024 * 1024


class Monitor:
    """Order: made (binds, which may fail), ``run`` until SIGTERM. Owns every other process of the node."""

    def __init__(self, config: dict[str, object]) -> None:
        self._config = config
        level, format = _log_words(config)
        self._log = Log("node.monitor", level, format)
        self._folder_name = str(config["folder"])
        self._folder = os.open(self._folder_name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _lock(self._folder)
        public, secret = _pair(config["view"])
        self._view = (public, secret)
        self._public = identity_view.read_public(public)
        self._listeners = [listen(str(host), int(str(port))) for host, port in map(_items, _items(config["listen"]))]
        self.loop = Loop()
        self._status = monitor_status.StatusSocket(self.loop, self._folder, self.describe)
        self._link_pid = 0
        self._link: Channel | None = None
        self._link_pause = FIRST_PAUSE
        self._link_started = 0.0
        self._state: dict[str, object] = {"tunnel": "down", "since": time.time(), "reason": "starting"}
        self._ready = False
        self._stopping = False
        search_path = [str(entry) for entry in _items(config["search_path"])]
        self._keeper = KeeperProcess(self.loop, config, search_path, self._give_keeper, self._log)
        self._renewal = Renewal(self.loop, self._public, self._renewal_task(), search_path, self._renewed, self._log)
        self._deadline: Timer | None = None

    def _renewal_task(self) -> dict[str, object]:
        return {"mode": "renew", "identity": f"{self._folder_name}/identity.json", "log": self._config["log"]}

    def run(self) -> None:
        """Serve until told to stop."""
        self.loop.watch_children()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: self.loop.after(0, self.stop))
        signal.signal(signal.SIGHUP, lambda number, frame: self.loop.after(0, self._reload))
        self._log.info(
            "node starts",
            name=self._public["name"],
            cluster=self._public["cluster"],
            listen=",".join(self._addresses()) or "tunnel",
        )
        _preload()
        self._start_link()
        self._renewal.start()
        period = monitor_status.watchdog_period()
        if period is not None:
            self._pat(period)
        self.loop.run()

    def _pat(self, period: float) -> None:
        notify("WATCHDOG=1")
        self.loop.after(period, lambda: self._pat(period))

    def _addresses(self) -> list[str]:
        return [format_address(*listener.getsockname()[:2]) for listener in self._listeners]

    # ------------------------------------------------------------------ link

    def _start_link(self) -> None:
        if self._stopping:
            return
        ours, theirs = pair()
        spool = self._spool_folder()
        self._link_started = time.monotonic()
        try:
            pid = os.fork()
        except OSError as error:
            self._log.error("cannot start link", reason=error)
            for descriptor in (ours, theirs):
                descriptor.close()
            os.close(spool)
            self._link_again()
            return
        if pid == 0:
            ours.close()
            self._be_link(theirs, spool)
        theirs.close()
        os.close(spool)
        self._link_pid = pid
        self._link = Channel(ours, queue_limit=16)
        self.loop.add(ours.fileno(), READ, self._hear_link)
        self.loop.child(pid, self._link_ended)
        # A keeper that outlived its link waits for the next one.
        self._keeper.offer()

    def _be_link(self, channel: socket.socket, spool: int) -> None:
        """In the child. Does not return."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            # SIGINT from the terminal reaches the whole group; the monitor stops us in its order.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self.loop.close()
            self._status.close()
            self._keeper.forget()
            versions = _document_versions(self._folder_name)
            os.close(self._folder)
            os.close(self._view[0])
            from tinyport.node import link

            # Loaded before the fork already, see _preload.
            given = link.Inherited(channel, self._listeners, self._view[1], spool, versions)
            level, format = _log_words(self._config)
            link.run(self._config, self._public, given, Log("node.link", level, format))
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def _spool_folder(self) -> int:
        """A descriptor of the spool's folder, which belongs to link's user."""
        try:
            os.mkdir("spool", 0o700, dir_fd=self._folder)
        except FileExistsError:
            pass
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open("spool", flags, dir_fd=self._folder)
        user = self._config["user"]
        if isinstance(user, dict):
            os.fchown(descriptor, int(user["uid"]), int(user["gid"]))
        return descriptor

    def _hear_link(self, events: int) -> None:
        link = self._link
        if link is None:
            return
        try:
            if events & WRITE:
                link.flush()
            received = link.receive()
        except BlockingIOError:
            return
        except (TinyportError, OSError) as error:
            self._log.error("link sent something malformed", reason=error)
            received = None
        if received is None:
            # Its end follows as SIGCHLD; when it does not, it has gone mad.
            self._drop_link()
            self.loop.kill(self._link_pid, signal.SIGKILL if not self._stopping else signal.SIGTERM)
            return
        message, descriptors = received
        for descriptor in descriptors:
            os.close(descriptor)
        op = message.get("op")
        if op == "keeper":
            self._keeper.wanted()
        elif op == "renew":
            self._renewal.wanted()
        elif op == "state":
            self._link_state(message)

    def _tell_link(self, message: dict[str, object], descriptors: tuple[int, ...] = ()) -> None:
        if self._link is None:
            return
        try:
            self._link.send(message, descriptors)
        except OSError as error:
            self._log.debug("link does not listen", reason=error)
            return
        if self._link.wants_write:
            self.loop.add(self._link.fileno(), READ | WRITE, self._hear_link)

    def _give_keeper(self, end: int) -> None:
        self._tell_link({"op": "keeper"}, (end,))

    def _link_state(self, message: dict[str, object]) -> None:
        self._state = {name: message.get(name) for name in ("tunnel", "since", "server", "proxy", "reason")}
        offset = message.get("offset")
        if isinstance(offset, (int, float)) and not isinstance(offset, bool):
            self._renewal.confirm(float(offset))
        notify(f"READY=1\nSTATUS=tunnel {self._state['tunnel']}")
        if self._state["tunnel"] == "up" and not self._ready:
            self._ready = True
            self._tell_ready()

    def _tell_ready(self) -> None:
        """For who started us: it listens, and its first tunnel is up."""
        text = json.dumps(
            {
                "listen": self._addresses(),
                "pid": os.getpid(),
                "uuid": self._public["uuid"],
                "name": self._public["name"],
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

    def _drop_link(self) -> None:
        if self._link is not None:
            self.loop.remove(self._link.fileno())
            self._link.close()
            self._link = None

    def _link_ended(self, status: int) -> None:
        self._drop_link()
        self._link_pid = 0
        if self._stopping:
            self._stopped()
            return
        if os.waitstatus_to_exitcode(status):
            self._log.error("link died and is started again", status=_words(status))
        self._state = {"tunnel": "down", "since": time.time(), "reason": "link is started again"}
        self._link_again()

    def _link_again(self) -> None:
        if time.monotonic() - self._link_started > GOOD_AFTER:
            self._link_pause = FIRST_PAUSE
        self.loop.after(self._link_pause, self._start_link)
        self._link_pause = min(self._link_pause * 2, LONGEST_PAUSE)

    # ------------------------------------------------------------------ identity

    def _renewed(self, view: tuple[int, int]) -> None:
        public = take(view, self._log)
        if public is None:
            for descriptor in view:
                os.close(descriptor)
            return
        for descriptor in self._view:
            os.close(descriptor)
        self._view, self._public = view, public
        self._renewal.replaced(public)
        self._log.info("certificate renewed", generation=public["generation"], valid_before=public["valid_before"])
        # Link takes the new certificate with its successor; sessions are the keeper's and do not notice.
        self._link_pause = FIRST_PAUSE
        self._tell_link({"op": "stop"})

    # ------------------------------------------------------------------ ends

    def _reload(self) -> None:
        notify("RELOADING=1")
        self._tell_link({"op": "reload"})
        notify("READY=1")

    def stop(self) -> None:
        """Stop everything; as root, a keeper with sessions stays with them until they end."""
        if self._stopping:
            return
        self._stopping = True
        notify("STOPPING=1")
        self._log.info("node stops")
        self._deadline = self.loop.after(STOP_LIMIT, self._too_slow)
        self._renewal.stop()
        self._keeper.stop(self._stopped)
        self._tell_link({"op": "stop"})
        self._stopped()

    def _stopped(self) -> None:
        if self._stopping and not self._link_pid and self._keeper.may_leave:
            self.loop.stop()
            self._status.close()
            try:
                os.unlink(monitor_status.SOCKET, dir_fd=self._folder)
            except OSError:
                return

    def _too_slow(self) -> None:
        self._log.warning("not everything stopped in time")
        if self._link_pid:
            self.loop.kill(self._link_pid, signal.SIGKILL)
        self._keeper.give_up()
        self.loop.after(0.5, self.loop.stop)

    # ------------------------------------------------------------------ status

    def describe(self) -> dict[str, object]:
        """What ``tinyport status`` shows."""
        keeper = self._keeper.pid
        workers = monitor_status.children(keeper) if keeper else []
        workers = [pid for pid in workers if monitor_status.command_name(pid).startswith("tinyport-work")]
        pids = [pid for pid in (os.getpid(), self._link_pid, keeper, *workers) if pid]
        now = self._renewal.now()
        return {
            "version": self._config["version"],
            "pid": os.getpid(),
            "pids": {
                "monitor": os.getpid(),
                "link": self._link_pid or None,
                "keeper": keeper or None,
                "workers": workers,
            },
            "tunnel": self._state,
            "cluster": self._public["cluster"],
            "name": self._public["name"],
            "uuid": self._public["uuid"],
            "listen": self._addresses(),
            "valid_before": self._public["valid_before"],
            "generation": self._public["generation"],
            "skew": None if now is None or self._renewal.offset is None else round(time.time() - now, 1),
            "memory": {str(pid): monitor_status.memory(pid) for pid in pids},
        }


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. ``::`` serves IPv4, too, and becomes IPv4 alone where there is no IPv6. OperatorError
    names the address and what is wrong.
    """
    where = format_address(host, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        stream = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    except OSError as error:
        if family == socket.AF_INET6 and host == "::":
            return listen("0.0.0.0", port)  # noqa: S104 - all addresses is what :: asked for
        raise OperatorError(f"cannot listen on {where}: {os.strerror(error.errno or 0).lower()}") from None
    try:
        # Connections of a predecessor may still be in TIME_WAIT.
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            stream.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        stream.bind((host, port))
        stream.listen(BACKLOG)
    except OSError as error:
        stream.close()
        reason = os.strerror(error.errno or 0).lower() if error.errno else str(error)
        hint = 'another program has this port (is sshd or another node running?); "ss -ltnp" shows which'
        raise OperatorError(
            f"cannot listen on {where}: {reason}", hint=hint if "in use" in reason else "", code="listen"
        ) from None
    return stream


def _preload() -> None:
    """Load what link needs into pages that both share: 2 MB less than when link loads it. Nothing of it runs here;
    docs/decisions/0005-the-monitor-loads-links-code.md.
    """
    import hashlib  # noqa: F401 - the tunnel's handshake needs it

    import tinyport.node.link  # noqa: F401

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


def _document_versions(folder: str) -> dict[str, tuple[int, int]]:
    """What the documents on the disk claim to be, for the tunnel's hello. The keeper alone judges them."""
    from tinyport.node.link_documents import peek

    found: dict[str, tuple[int, int]] = {}
    for kind in ("policy", "node"):
        try:
            claimed = peek(json.loads(read_limited(f"{folder}/{kind}.json", MAX_DOCUMENT_FILE)))
        except (OSError, ValueError, RecursionError, TinyportError):
            claimed = None
        if claimed is not None and claimed[0] == kind:
            found[kind] = claimed[1]
    return found


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _pair(value: object) -> tuple[int, int]:
    first, second = _items(value)
    return int(str(first)), int(str(second))


def _log_words(config: Mapping[str, object]) -> tuple[str, str]:
    words = config["log"]
    return (str(words["level"]), str(words["format"])) if isinstance(words, dict) else ("info", "text")


def _words(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def main(descriptor: int) -> None:
    """Be the monitor of the configuration (JSON) in the memory file ``descriptor``."""
    name_process("tinyport-monitor")
    config = json.loads(os.pread(descriptor, MAX_CONFIGURATION, 0))
    os.close(descriptor)
    for inherited in (*config["view"], *([config["ready_fd"]] if config["ready_fd"] is not None else [])):
        os.set_inheritable(inherited, False)
    try:
        Monitor(config).run()
    except TinyportError as error:
        hint = f"tinyport: hint: {error.hint}\n" if error.hint else ""
        os.write(2, f"tinyport: error: {error.message}\n{hint}".encode())
        raise SystemExit(1) from None
