"""Link as its parent sees it: forked so that they share memory, heard, started again. Light: the monitor is it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time

from tinyport.core.errors import TinyportError
from tinyport.host import identity_before
from tinyport.host.files import read_limited
from tinyport.host.logging_line import Log
from tinyport.host.sd_notify import watchdog_period
from tinyport.node.confinement import PLACES
from tinyport.node.ipc import Channel, pair
from tinyport.node.loop import READ, WRITE, Loop, Timer
from tinyport.node.python_process import close_all_but

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# docs/protocol/node.md
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 30.0
# What ran for so long did not die of its start.
GOOD_AFTER = 60.0
MAX_DOCUMENT_FILE = 4 * 1024 * 1024
MAX_QUEUED = 32
# It is looked at as often as systemd asks us, and this often where there is no systemd.
ASKED_EVERY = 300.0


class Inheritance:
    """What the next link gets: the monitor replaces these when they change."""

    __slots__ = ("before", "config", "listeners", "public", "reached", "secret")

    def __init__(
        self,
        config: dict[str, object],
        public: dict[str, object],
        secret: int,
        listeners: list[socket.socket],
        reached: list[tuple[str, int]],
    ) -> None:
        self.config = config
        self.public = public
        #: memory file with TLS key and certificate
        self.secret = secret
        #: the one that was replaced, while the one of today is on probation, where it is in no file
        self.before: int | None = None
        self.listeners = listeners
        #: where tunnels stood before
        self.reached = reached


class LinkProcess:
    """One link at a time. ``heard(message)`` gets what it says, ``started()`` is called when there is a new one,
    ``ended()`` when there is none any more; ``leave_behind()`` in each fork, to close what is the monitor's alone.
    """

    def __init__(
        self,
        loop: Loop,
        folder: int,
        given: Inheritance,
        *,
        heard: Callable[[dict[str, object]], None],
        started: Callable[[], None],
        ended: Callable[[], None],
        leave_behind: Callable[[], None],
        log: Log,
    ) -> None:
        self._loop = loop
        self._folder = folder
        self._given = given
        self._heard = heard
        self._on_start = started
        self._on_end = ended
        self._leave_behind = leave_behind
        self._log = log
        self._channel: Channel | None = None
        self._pause = FIRST_PAUSE
        self._started_at = 0.0
        self._stopping = False
        self._asked_every = watchdog_period() or ASKED_EVERY
        self._asking: Timer | None = None
        self._answered = True
        #: how often it had gone to sleep when it was looked at last
        self._slept = -1
        self.pid = 0

    def start(self) -> None:
        if self._stopping:
            return
        ours, theirs = pair()
        spool = self._spool_folder()
        self._started_at = time.monotonic()
        try:
            pid = os.fork()
        except OSError as error:
            self._log.error("cannot start link", reason=error)
            for descriptor in (ours, theirs):
                descriptor.close()
            os.close(spool)
            self._again()
            return
        if pid == 0:
            ours.close()
            self._become_link(theirs, spool)
        theirs.close()
        os.close(spool)
        self.pid = pid
        self._channel = Channel(ours, queue_limit=MAX_QUEUED)
        self._loop.add(ours.fileno(), READ, self._hear)
        self._loop.child(pid, self._ended)
        self._answered = True
        self._slept = -1
        self._asking = self._loop.after(self._asked_every, self._ask)
        self._on_start()

    def _become_link(self, channel: socket.socket, spool: int) -> None:
        """In the child. Does not return."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            # SIGINT from the terminal reaches the whole group; the monitor stops us in its order.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._loop.close()
            versions, renewal, proxies = document_versions(self._folder, str(self._given.public["uuid"]))
            before = _before(f"/proc/self/fd/{self._folder}", self._given)
            self._leave_behind()
            listeners = [listener.fileno() for listener in self._given.listeners]
            # Whatever is open besides, were it from whoever started the monitor, is not for who faces the network.
            kept = [] if before is None else [before[1]]
            close_all_but({0, 1, 2, channel.fileno(), spool, self._given.secret, *kept, *listeners})
            from tinyport.node.link import inherited, link

            # Loaded before the fork already, see monitor._preload.
            given = inherited.Inherited(
                channel,
                self._given.listeners,
                self._given.secret,
                spool,
                versions,
                renewal,
                proxies,
                self._given.reached,
                before,
            )
            level, format = log_words(self._given.config)
            link.run(self._given.config, self._given.public, given, Log("node.link", level, format))
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def _spool_folder(self) -> int:
        """A descriptor of the spool's folder, which belongs to link's user. Where none can be made, of one that is gone
        again, in which nothing can be kept: what waits does so in link's memory.
        """
        try:
            os.mkdir("spool", 0o700, dir_fd=self._folder)
        except FileExistsError:
            pass
        except OSError as error:
            self._log.warning("events that wait are kept in memory alone", reason=error)
            return _gone_folder()
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open("spool", flags, dir_fd=self._folder)
        user = self._given.config["user"]
        if isinstance(user, dict) and os.fstat(descriptor).st_uid != int(user["uid"]):
            try:
                os.fchown(descriptor, int(user["uid"]), int(user["gid"]))
            except OSError as error:
                self._log.warning("events that wait are kept in memory alone", reason=error)
        return descriptor

    # ------------------------------------------------------------------ its line

    def _hear(self, events: int) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            if events & WRITE:
                channel.flush()
            received = channel.receive()
        except BlockingIOError:
            self._watch()
            return
        except (TinyportError, OSError) as error:
            self._log.error("link sent something malformed", reason=error)
            received = None
        if received is None:
            # Its end follows as SIGCHLD; when it does not, it has gone mad.
            self._drop()
            self._loop.kill(self.pid, signal.SIGKILL if not self._stopping else signal.SIGTERM)
            return
        message, descriptors = received
        for descriptor in descriptors:
            os.close(descriptor)
        if message.get("op") == "alive":
            self._answered = True
            return
        self._heard(message)

    def _ask(self) -> None:
        """Does it turn? systemd asks us alone, and without link nobody gets in."""
        if not self._answered and not self._stopping:
            self._log.error("link does not answer and is killed", asked=f"{self._asked_every:.0f}s ago")
            self.give_up()
            return
        slept = times_slept(self.pid)
        # Who has gone to sleep since has been awake, by a beat, say, and need not be woken for a question.
        if slept is None or slept == self._slept:
            self._answered = False
            self.tell({"op": "alive"})
        self._slept = -1 if slept is None else slept
        self._asking = self._loop.after(self._asked_every, self._ask)

    def tell(self, message: dict[str, object], descriptors: tuple[int, ...] = ()) -> None:
        """Say something, if there is a link. The descriptors stay the caller's."""
        if self._channel is None:
            return
        try:
            self._channel.send(message, descriptors)
        except OSError as error:
            self._log.debug("link does not listen", reason=error)
            return
        self._watch()

    def _watch(self) -> None:
        if self._channel is not None:
            events = READ | (WRITE if self._channel.wants_write else 0)
            self._loop.add(self._channel.fileno(), events, self._hear)

    def _drop(self) -> None:
        if self._channel is not None:
            self._loop.remove(self._channel.fileno())
            self._channel.close()
            self._channel = None

    # ------------------------------------------------------------------ its end

    def _ended(self, status: int) -> None:
        self._drop()
        if self._asking is not None:
            self._asking.cancel()
        self.pid = 0
        if not self._stopping:
            if os.waitstatus_to_exitcode(status):
                self._log.error("link died and is started again", status=_words(status))
            self._again()
        self._on_end()

    def _again(self) -> None:
        if time.monotonic() - self._started_at > GOOD_AFTER:
            self._pause = FIRST_PAUSE
        self._loop.after(self._pause, self.start)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def renew(self) -> None:
        """Have it replaced by one that inherits what there is now."""
        self._pause = FIRST_PAUSE
        self.tell({"op": "stop"})

    def stop(self) -> None:
        """For good."""
        self._stopping = True
        self.tell({"op": "stop"})

    def give_up(self) -> None:
        if self.pid:
            self._loop.kill(self.pid, signal.SIGKILL)


def _gone_folder() -> int:
    """A descriptor of an empty folder that is gone already. OSError when there is not even a place for that."""
    for place in PLACES:
        path = f"{place}/tinyport-spool-{os.getpid()}"
        try:
            os.mkdir(path, 0o700)
        except OSError:
            continue
        try:
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        finally:
            os.rmdir(path)
    raise OSError("there is no place for a folder, not even in /run")


def _before(folder: str, given: Inheritance) -> tuple[dict[str, object], int] | None:
    """The identity before that of today while this is on probation, and a descriptor of its certificate and key."""
    found = identity_before.read(folder)
    if found is None:
        return None
    if given.config.get("in_memory"):
        return None if given.before is None else (found, given.before)
    try:
        return found, identity_before.open_secret(folder)
    except OSError:
        # Half of it is none.
        return None


def document_versions(folder: int, uuid: str) -> tuple[dict[str, tuple[int, int]], object, object]:
    """What the documents on the disk claim to be, for the tunnel's hello, and what the policy says of early renewals
    and of where proxies are. The keeper alone judges them, and wrote what it believed. ``uuid``: whose node document
    counts; one of another node is from when this device had that one's identity."""
    from tinyport.node.link.documents import early_renewal, is_about, peek, proxies

    found: dict[str, tuple[int, int]] = {}
    renewal = places = None
    for kind in ("policy", "node"):
        try:
            signed = json.loads(read_limited(f"/proc/self/fd/{folder}/{kind}.json", MAX_DOCUMENT_FILE))
            claimed = peek(signed)
        except (OSError, ValueError, RecursionError, TinyportError):
            claimed = None
        if claimed is not None and claimed[0] == kind and (kind == "policy" or is_about(signed, uuid)):
            found[kind] = claimed[1]
            if kind == "policy":
                renewal, places = early_renewal(signed), proxies(signed)
    return found, renewal, places


def log_words(config: Mapping[str, object]) -> tuple[str, str]:
    """(level, format) of the log that a configuration asks for."""
    words = config["log"]
    return (str(words["level"]), str(words["format"])) if isinstance(words, dict) else ("info", "text")


def _words(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def times_slept(pid: int) -> int | None:
    """How often the process has given the processor up of its own accord (proc(5)), as a loop does that waits. One that
    is stopped, or runs in circles, does not. None when the kernel does not say."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("voluntary_ctxt_switches:"):
                    return int(line.split()[1])
    except (OSError, ValueError, IndexError):
        # No /proc, or it has ended: then it is asked.
        return None
    return None
