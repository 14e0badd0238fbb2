"""What a node's connections cost on the wire, as this machine's kernel counts it; how often to beat within a budget.

TCP_INFO knows bytes and segments of a connection, retransmissions included. With the headers of each segment that is
what a mobile network bills, but for what a load balancer in between adds on its other side.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping

from tinyport.core.cluster_config import node_budget

# IPv4 or IPv6, TCP, and the timestamps that Linux puts into every segment (RFC 7323).
_HEADERS = {socket.AF_INET: 20 + 20 + 12, socket.AF_INET6: 40 + 20 + 12}
# linux/tcp.h: tcpi_bytes_acked, tcpi_bytes_received, tcpi_segs_out, tcpi_segs_in (Linux 4.2).
_AT = 120
_COUNTS = struct.Struct("=QQII")
_SIZE = _AT + _COUNTS.size
# tcpi_retransmits: how often in a row the oldest was sent again; tcpi_unacked: segments on their way.
_TRIES_AT = 2
_UNACKED_AT = 24
_SEGMENT_COUNT = struct.Struct("=I")
# tcpi_rtt, in microseconds; tcpi_total_retrans.
_RTT_AT, _AGAIN_AT = 68, 100

# On the wire, a beat and its confirmation; and what a question and its answer cost more, with every third beat
# (bench/results: idle traffic a day).
BEAT_COST = 162
ASKING_COST = 110
DAY = 86400.0
# docs/protocol/tunnel.md
USUAL_BEAT = 50.0
# Nothing on the way remembers a silent connection for longer.
SLOWEST_BEAT = 900.0


def wire_bytes(sock: socket.socket) -> int:
    """Bytes of a TCP connection in both directions so far, headers included; 0 when the kernel does not say."""
    found = _info(sock)
    if found is None:
        return 0
    headers = _HEADERS[sock.family]
    sent, received, segments_out, segments_in = _COUNTS.unpack_from(found, _AT)
    return int(sent + received + headers * (segments_out + segments_in))


def unconfirmed(sock: socket.socket) -> tuple[int, int] | None:
    """How many bytes the other end has confirmed, and how often in a row the next ones were sent again, when it has not
    confirmed all that went out; else None, and when the kernel does not say."""
    found = _info(sock)
    if found is None or not _SEGMENT_COUNT.unpack_from(found, _UNACKED_AT)[0]:
        return None
    return int(_COUNTS.unpack_from(found, _AT)[0]), found[_TRIES_AT]


def distance(sock: socket.socket) -> tuple[float, bool]:
    """How long a round trip takes, in seconds, as far as is known (0.0: not), and had anything to be sent again?"""
    found = _info(sock)
    if found is None:
        return 0.0, False
    (rtt,), (again,) = (_SEGMENT_COUNT.unpack_from(found, at) for at in (_RTT_AT, _AGAIN_AT))
    return rtt / 1e6, again > 0


def _info(sock: socket.socket) -> bytes | None:
    """The kernel's struct tcp_info; None when it has none for this socket, or an older one."""
    if sock.family not in _HEADERS:
        return None
    try:
        found = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
    except OSError:
        return None
    return found if len(found) == _SIZE else None


def beat_within(config: Mapping[str, object], tunnels: int, usual: float, labels: Mapping[str, str]) -> float:
    """Seconds between the beats of each of a node's ``tunnels``, so that all of them together stay within the budget
    that the cluster gives to nodes with these ``labels``. ``usual``: where that leaves room for a beat every 50 s.
    """
    budget = node_budget(config, labels)
    usual_cost = (BEAT_COST + ASKING_COST / 3) * max(tunnels, 1) * DAY / USUAL_BEAT
    return round(min(usual * max(usual_cost / max(budget, 1), 1.0), SLOWEST_BEAT), 2)


class Meter:
    """Bytes of one node since the proxy began to count: connections that ended, and those that are open."""

    __slots__ = ("_ended", "since")

    def __init__(self, now: float) -> None:
        self.since = now
        self._ended = 0

    def ended(self, sock: socket.socket) -> None:
        """A connection of the node's is about to be closed."""
        self._ended += wire_bytes(sock)

    def total(self, tunnel: int = 0) -> int:
        """``tunnel``: what its open tunnel comes to."""
        return self._ended + tunnel
