"""Sources whose connections failed are refused for a while. Light: link loads it. As sshd's PerSourcePenalties.

The keeper says how each connection ended; link refuses at the door, so that a source which only wastes our time wakes
neither keeper nor worker. A source is an IPv4 address or an IPv6 /64; for what comes through the tunnel it is the
client's that the proxy named.
"""

from __future__ import annotations

import socket
import time

from tinyport.core.sources import source_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tinyport.host.logging_line import Log

    #: (bytes of an address: 4 or 16, the network as a number, length of its prefix)
    Network = Sequence[int]

# Seconds for each, sshd_config(5) PerSourcePenalties; they add up, and time takes them away.
SECONDS = {"authfail": 5.0, "noauth": 1.0, "grace": 10.0, "crash": 90.0}
# Below this nobody is refused: people mistype, and port scans of monitoring come once a minute.
LEAST = 15.0
MOST = 600.0
# sshd has 65,536; an entry is 200 bytes, and this is a small machine. When it is full the smallest penalty is forgotten
# (sshd's "permissive"): a flood of sources must not keep people out.
MAX_SOURCES = 2048
# Behind one address there may be a whole village. Where somebody proved who they are, a certificate's life ago at most,
# neighbours' failures are no reason to refuse; their floods are dealt with by core.startups in any case.
KNOWN_FOR = 12 * 3600.0
MAX_KNOWN = 1024

# RFC 4253 section 4.2: a line before the identification. sshd has "Not allowed at this time".
REFUSAL = "not allowed at this time: too many attempts from your address failed"
REFUSAL_LINE = f"tinyport: {REFUSAL}\r\n".encode()


class Penalties:
    """``exempt``: networks that are never refused. ``enabled`` False: nobody is."""

    def __init__(
        self, exempt: Sequence[Network], log: Log, enabled: bool = True, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._exempt = [tuple(network) for network in exempt]
        self._log = log
        self._enabled = enabled
        self._monotonic = monotonic
        #: source → when its penalty ends
        self._until: dict[str, float] = {}
        #: those of them that are refused
        self._refused: set[str] = set()
        #: source → when somebody last proved who they are, oldest first
        self._known: dict[str, float] = {}

    def ended(self, address: str, how: str) -> None:
        """A connection of ``address`` ended: ``proved``, or one of SECONDS; anything else counts for nothing."""
        source, now = source_of(address), self._monotonic()
        if how == "proved":
            self._known.pop(source, None)
            self._known[source] = now
            if len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._until.pop(source, None)
            self._refused.discard(source)
            return
        seconds = SECONDS.get(how)
        if seconds is None or not self._enabled or (self._is_known(source, now) and how != "crash"):
            return
        if self._is_exempt(address):
            return
        if source not in self._until and len(self._until) >= MAX_SOURCES:
            self._forget(now)
        until = min(max(self._until.get(source, now), now) + seconds, now + MOST)
        self._until[source] = until
        if until - now >= LEAST and source not in self._refused:
            self._refused.add(source)
            self._log.info("a source is refused for a while", source=source, seconds=round(until - now), after=how)

    def refuses(self, address: str) -> bool:
        """Is this one to be turned away now?"""
        if not self._refused:
            return False
        source = source_of(address)
        if source not in self._refused:
            return False
        if self._until[source] > self._monotonic():
            return True
        del self._until[source]
        self._refused.discard(source)
        return False

    def _forget(self, now: float) -> None:
        for source in [source for source, until in self._until.items() if until <= now]:
            del self._until[source]
            self._refused.discard(source)
        if len(self._until) >= MAX_SOURCES:
            least = min(self._until, key=self._until.__getitem__)
            del self._until[least]
            self._refused.discard(least)

    def _is_known(self, source: str, now: float) -> bool:
        since = self._known.get(source)
        return since is not None and now - since < KNOWN_FOR

    def _is_exempt(self, address: str) -> bool:
        packed = _packed(address)
        number = int.from_bytes(packed, "big")
        return any(
            len(packed) == size and number >> (8 * size - bits) == network >> (8 * size - bits)
            for size, network, bits in self._exempt
        )


def _packed(address: str) -> bytes:
    """An address as bytes; of IPv4 in IPv6 the IPv4; nothing for what is no address."""
    host = address.partition("%")[0]
    if "." in host:
        host = host.rpartition(":")[2]
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError:
        return b""
