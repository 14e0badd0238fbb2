"""Link: the node's only process that is always there and faces the network. No privileges, no secret but its TLS key.

Forked from the monitor, so that they share memory; ``ssl`` is imported after the fork. It listens, keeps the tunnel,
passes connections and signed documents to the keeper, and carries audit events to auth. It judges nothing: what opens
a session is decided by the keeper, from what it checks itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time

from tinyport.core.clock import SKEW_WORTH_SAYING
from tinyport.core.errors import PeerError, TinyportError
from tinyport.core.events import event as make_event
from tinyport.core.names import check_label, format_address, parse_address, printable
from tinyport.host import identity_before
from tinyport.host.locked_memory import lock_process, swaps_to_disk
from tinyport.host.logging_line import Log
from tinyport.link.tlsstream import STALE
from tinyport.node.confinement import shed
from tinyport.node.ipc import Channel
from tinyport.node.link.dial import Dials
from tinyport.node.link.documents import Documents, name_and_split, peek
from tinyport.node.link.events import AuthLine, EventSender
from tinyport.node.link.generations import Census, OldKeepers, Receipts
from tinyport.node.link.here import Here
from tinyport.node.link.inherited import Contexts, Inherited
from tinyport.node.link.keeper import KeeperLine
from tinyport.node.link.labels import LabelCommands
from tinyport.node.link.listen import Doorway
from tinyport.node.link.penalties import Penalties
from tinyport.node.link.places import Places
from tinyport.node.link.probation import Probation
from tinyport.node.link.recordings import Recordings
from tinyport.node.link.spool import Spool
from tinyport.node.link.tunnel import REPLACED
from tinyport.node.link.tunnels import Tunnels
from tinyport.node.loop import READ, WRITE, Loop
from tinyport.node.python_process import name_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyport.node.link.tunnel import Tunnel

    Version = tuple[int, int]
    Say = Callable[[dict[str, object]], None]

# The proxy's limits, proxy/tunnels.py
MAX_ADDRESSES = 16
# How long the first attempts of the tunnel have before the policy is fetched in another way.
POLICY_AFTER = 15.0
# A drifting board loses a second a day; a signed statement an hour old is as good as a new one.
TIME_EVERY = 3600.0


class Link:
    """Puts the parts together, and passes messages between them."""

    def __init__(self, config: dict[str, object], identity: dict[str, object], given: Inherited, log: Log) -> None:
        self._config = config
        self._identity = identity
        self._log = log
        self._monitor = Channel(given.channel, queue_limit=32)
        self.loop = loop = Loop()
        contexts = Contexts(_texts(identity["tls_cas"]), given.secret)
        cluster = str(identity["cluster"])
        self._keeper = KeeperLine(
            loop, self._want_keeper, self._keeper_said, self._keeper_opened, self._record, self._keeper_lost, log
        )
        self._receipts = Receipts(self._keep_event)
        self._census = Census(self._speaking, self._keep_event, self._now)
        self._old_keepers = OldKeepers(loop, self._keep_event, self._record, self._census.look, log)
        self._documents = Documents(loop, given.versions, self._send_document, log)
        self._commands = LabelCommands(loop, _commands(config["commands"]), self._labels_changed, log)
        self._penalties = Penalties(_networks(config.get("penalty_exempt")), log, bool(config.get("penalties", True)))
        self._doorway = Doorway(loop, given.listeners, self._direct, self._penalties, log)
        places = Places([*given.reached, _address(config["server"])])
        # Until there is a policy, what the join brought.
        places.sign({"addresses": identity["proxies"]} if given.proxies is None else given.proxies)
        self._tunnels = Tunnels(loop, self, places, self._trust(contexts, given), cluster, log)
        self._dials = Dials(loop, lambda: self._keeper.send({"op": "warm"}), self._keeper.send, self._penalties, log)
        self._auth = AuthLine(loop, lambda: self._tunnels.auth_address, contexts, cluster, log, self._tunnels.inside)
        self._events = EventSender(loop, self._auth, Spool(given.spool, self._now, _new_id), log)
        self._recordings = Recordings(loop, self._auth, self._recording_lost, log)
        instance = str(config.get("instance") or "")
        name = str(identity["name"])
        self._here = Here(self._auth, name, instance, lambda: self._tell_monitor({"op": "renew now"}), log)
        self._since = time.time()
        self._was_up = False
        self._renewal = given.renewal
        #: the last statement of auth about the time: (signed, monotonic time when it came)
        self._time: tuple[dict[str, object], float] | None = None
        #: cluster time less monotonic time, as auth stated it inside its TLS
        self._offset: float | None = None
        self._asked_time = -TIME_EVERY
        self._ports = [listener.getsockname()[1] for listener in given.listeners]

    def _trust(self, today: Contexts, given: Inherited) -> Probation:
        """For tunnels, which may fall back to the identity of before; what is said to auth does not."""
        if given.before is None:
            return Probation(today)
        before, secret = given.before
        try:
            contexts = Contexts(_texts(before["tls_cas"]), secret)
        except (OSError, ValueError) as error:
            self._log.warning("the identity of before cannot be used", reason=error)
            return Probation(today)
        return Probation(
            today,
            contexts,
            lambda: identity_before.counts(before, self._now(), self._documents.versions["policy"][0]),
        )

    def run(self) -> None:
        """Serve until the monitor says stop, or ends."""
        self.loop.watch_children()
        signal.signal(signal.SIGTERM, lambda number, frame: self.loop.after(0, self._stop))
        self.loop.add(self._monitor.fileno(), READ, self._hear_monitor)
        self._doorway.open()
        self._commands.start()
        self._tunnels.start()
        self._events.soon()
        self.loop.after(POLICY_AFTER, self._policy_otherwise)
        self._tell_monitor({"op": "renew before", "renew": self._renewal})
        self._report(None)
        self.loop.run()

    def _stop(self) -> None:
        self._commands.stop()
        self._tunnels.stop()
        self._dials.cancel()
        self._doorway.close()
        self._auth.close()
        self._recordings.close()
        self._keeper.close()
        self._old_keepers.close()
        self.loop.stop()

    def _now(self) -> float:
        return time.time() if self._offset is None else time.monotonic() + self._offset

    # ------------------------------------------------------------------ monitor

    def _hear_monitor(self, events: int) -> None:
        if events & WRITE:
            self._monitor.flush()
            if not self._monitor.wants_write:
                self.loop.add(self._monitor.fileno(), READ, self._hear_monitor)
        try:
            received = self._monitor.receive()
        except BlockingIOError:
            return
        except (TinyportError, OSError) as error:
            self._log.error("the monitor's line broke", reason=error)
            received = None
        if received is None:
            # Without a monitor nobody starts keepers or restarts us; its successor brings its own link.
            self._stop()
            return
        message, descriptors = received
        if message.get("op") == "keeper" and len(descriptors) == 1:
            self._keeper.given(socket.socket(fileno=descriptors[0]))
            return
        if message.get("op") == "old keeper" and len(descriptors) == 1:
            self._old_keepers.given(socket.socket(fileno=descriptors[0]), self._time_message())
            return
        if message.get("op") == "kept" and len(descriptors) == 1:
            self._events.take(descriptors.pop())
            self._tell_monitor({"op": "took", "name": message.get("name")})
            return
        for descriptor in descriptors:
            os.close(descriptor)
        if message.get("op") == "keepers":
            self._census.taken(message.get("names"))
        elif message.get("op") == "alive":
            self._tell_monitor({"op": "alive"})
        elif message.get("op") == "stop":
            self._stop()
        elif message.get("op") == "reload":
            self._tunnels.retry()

    def _tell_monitor(self, message: dict[str, object]) -> None:
        try:
            self._monitor.send(message)
        except OSError as error:
            # Its end of file is on the way and ends us.
            self._log.debug("the monitor does not listen", reason=error)
        if self._monitor.wants_write:
            self.loop.add(self._monitor.fileno(), READ | WRITE, self._hear_monitor)

    def _want_keeper(self) -> None:
        self._tell_monitor({"op": "keeper"})

    def _report(self, reason: TinyportError | None) -> None:
        standing = self._tunnels.standing()
        first = standing[0] if standing else {"server": "", "proxy": ""}
        self._tell_monitor(
            {
                "op": "state",
                "tunnel": "up" if standing else "down",
                "since": self._since,
                "tunnels": standing,
                "generation": self._identity["generation"],
                **first,
                "reason": "" if reason is None else reason.message,
                "offset": self._offset,
            }
        )

    # ------------------------------------------------------------------ tunnel

    def hello(self, tunnel: Tunnel) -> dict[str, object]:
        """What the node says of itself (docs/protocol/tunnel.md)."""
        return {
            "version": str(self._config["version"]),
            "uuid": str(self._identity["uuid"]),
            "policy": list(self._documents.versions["policy"]),
            "node": list(self._documents.versions["node"]),
            "addresses": self._addresses(tunnel),
            "labels": self._labels(),
            **({"instance": self._here.instance} if self._here.instance else {}),
            **self._skew(),
        }

    def _addresses(self, tunnel: Tunnel) -> list[str]:
        """Where this node says it can be reached directly: as configured, else the address that the tunnel goes out
        from, with our own ports.
        """
        advertised = _texts(self._config["advertise"])
        if advertised or not self._ports:
            return advertised[:MAX_ADDRESSES]
        source = tunnel.local
        return [format_address(source, port) for port in self._ports] if source else []

    def _labels(self) -> dict[str, str]:
        static = self._config["labels"]
        labels = dict(static) if isinstance(static, dict) else {}
        for name, value in self._commands.values.items():
            try:
                check_label(name, value)
            except PeerError:
                continue
            labels[name] = value
        return labels

    def _skew(self) -> dict[str, object]:
        """By how much the system's clock is off, where that is worth a word."""
        skew = 0.0 if self._offset is None else time.time() - self._now()
        return {"skew": round(skew)} if abs(skew) > SKEW_WORTH_SAYING else {}

    def _labels_changed(self) -> None:
        self._tunnels.status()

    def tunnel_changed(self, tunnel: Tunnel, reason: TinyportError | None) -> None:
        if tunnel.up:
            self._events.hurry()
            self._recordings.hurry()
            if time.monotonic() - self._asked_time >= TIME_EVERY:
                self._ask_time()
            self._here.tunnel_up()
        else:
            self._dials.cancel(tunnel)
            if reason is not None and reason.code == REPLACED:
                self._here.doubted()
            if reason is not None and reason.code in ("expired", STALE):
                self._tell_monitor({"op": "renew", "server": format_address(*tunnel.server)})
        up = bool(self._tunnels.up)
        if up != self._was_up:
            self._was_up, self._since = up, time.time()
        self._report(None if up else reason)

    def tunnel_said(self, tunnel: Tunnel, message: dict[str, object]) -> None:
        op = message.get("op")
        if op == "document":
            signed = message.get("signed")
            self._documents.arrived(signed)
            found = peek(signed)
            if isinstance(signed, dict) and found is not None and found[0] == "node":
                self._here.document(*name_and_split(signed))
        elif op == "dial":
            self._dials.notice(message, tunnel)
        else:
            # A newer proxy may know more than we do.
            self._log.debug("the proxy said something unknown", op=printable(str(op), 40))

    # ------------------------------------------------------------------ keeper

    def _direct(self, stream: socket.socket) -> None:
        self._keeper.send({"op": "conn", "kind": "direct"}, stream)

    def _keeper_opened(self) -> None:
        for signed in self._documents.kept:
            self._keeper.send_first({"op": "document", "signed": signed})
        for body in self._time_message():
            self._keeper.send_first(body)
        self._keeper.send_first(self._receipts.opened())
        if time.monotonic() - self._asked_time >= TIME_EVERY:
            self._ask_time()

    def _keeper_lost(self) -> None:
        self._receipts.closed()
        self._census.look()

    def _speaking(self) -> list[str]:
        return [*self._old_keepers.names, *([self._receipts.keeper] if self._receipts.keeper else [])]

    def _keeper_said(self, message: dict[str, object]) -> None:
        op = message.get("op")
        if op == "have":
            self._documents.have(message)
            self._old_keepers.written(self._documents.versions)
            self._tell_monitor({"op": "renew before", "renew": message.get("renew")})
            if message.get("proxies") is not None:
                self._tunnels.sign(message.get("proxies"))
        elif op == "ended":
            self._penalties.ended(str(message.get("peer")), str(message.get("how")))
        else:
            answer = self._receipts.heard(message)
            if answer is not None:
                self._keeper.answer(answer)

    def _record(self, message: dict[str, object], descriptors: list[int], say: Say) -> None:
        self._recordings.take(message, descriptors, say)

    def _recording_lost(self, sid: str, size: int) -> None:
        reason = "auth was away for too long"
        self._keep_event(make_event("session.data_lost", time=self._now(), sid=sid, bytes=size, reason=reason))

    def _keep_event(self, event: dict[str, object]) -> None:
        self._events.add(event)

    def _send_document(self, body: dict[str, object]) -> None:
        """The keeper of today writes it, and is started for it; older ones judge their sessions by it."""
        self._old_keepers.tell(body)
        self._keeper.send(body)

    def _time_message(self) -> list[dict[str, object]]:
        if self._time is None:
            return []
        signed, when = self._time
        return [{"op": "time", "signed": signed, "monotonic": when}]

    # ------------------------------------------------------------------ auth

    def _ask_time(self) -> None:
        self._asked_time = time.monotonic()
        self._auth.request("GET", f"/v1/time?nonce={os.urandom(16).hex()}", None, self._told_time)

    def _told_time(self, answer: dict[str, object] | None, error: TinyportError | None) -> None:
        if answer is None:
            self._asked_time = -TIME_EVERY
            self._log.debug("auth did not tell the time", reason=error)
            return
        now = time.monotonic()
        self._time = answer, now
        for body in self._time_message():
            self._keeper.send_now(body)
            self._old_keepers.tell(body)
        stated = _stated_time(answer)
        if stated is not None:
            self._offset = stated - now
            self._report(None)
            self._tunnels.status()

    def _policy_otherwise(self) -> None:
        """The tunnel did not come up so far: ask auth itself, which may be reached where no proxy is."""
        if not self._tunnels.up:
            self._auth.request("GET", "/v1/policy", None, self._told_policy)

    def _told_policy(self, answer: dict[str, object] | None, error: TinyportError | None) -> None:
        if answer is not None:
            self._documents.arrived(answer)
        else:
            self._log.debug("auth did not tell its policy", reason=error)


def run(config: dict[str, object], identity: dict[str, object], given: Inherited, log: Log) -> None:
    """Be link: called by the monitor in a fresh fork, as root if it is root. Returns when told to stop."""
    name_process("tinyport-link")
    link = Link(config, identity, given, log)
    for descriptor in (given.secret, *([] if given.before is None else [given.before[1]])):
        os.close(descriptor)
    user = config["user"]
    # With the keys in memory alone, the TLS key is in ours by now.
    if config.get("in_memory") and not lock_process(will_shed=True) and (disks := swaps_to_disk()):
        log.warning("the TLS key may be swapped to a disk: it cannot be locked in memory", swap=",".join(disks))
    shed(user if isinstance(user, dict) else None)
    link.run()


def _stated_time(signed: dict[str, object]) -> float | None:
    # Unchecked here, but it came in TLS that ended at auth. It moves renewals and the events' times, nothing else;
    # the keeper checks the signature before it judges by it.
    try:
        body = json.loads(str(signed.get("document")))
        stated = body["time"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return float(stated) if isinstance(stated, (int, float)) and not isinstance(stated, bool) else None


def _new_id() -> str:
    """A random UUID (RFC 9562 section 5.4), without the ``uuid`` module."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _address(value: object) -> tuple[str, int]:
    if isinstance(value, str):
        return parse_address(value)
    host, port = _list(value)
    return str(host), int(str(port))


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _texts(value: object) -> list[str]:
    return [str(item) for item in _list(value)]


def _networks(value: object) -> list[list[int]]:
    return [[int(str(number)) for number in _list(entry)] for entry in _list(value)]


def _commands(value: object) -> list[tuple[str, list[str], float]]:
    found = []
    for entry in _list(value):
        name, argv, period = _list(entry)
        found.append((str(name), _texts(argv), float(str(period))))
    return found
