"""What link has from the monitor when it is forked, and the TLS contexts that it makes of it. Light: link loads it."""

from __future__ import annotations

import socket
import ssl

from tinyport.host.tls import client_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Version = tuple[int, int]


class Inherited:
    """What link has from the monitor: open descriptors and values, taken before privileges went.

    ``secret``: memory file with TLS key and certificate. ``spool``: descriptor of the spool's folder. ``versions``:
    kind → (epoch, serial) of the documents on the disk, ``renewal`` and ``proxies``: what the policy there says of
    early renewals and of where proxies are; ``reached``: where tunnels stood before; ``before``: the identity before
    this one while it is on probation (host.identity_before), and a descriptor of its certificate and key.
    """

    __slots__ = ("before", "channel", "listeners", "proxies", "reached", "renewal", "secret", "spool", "versions")

    def __init__(
        self,
        channel: socket.socket,
        listeners: list[socket.socket],
        secret: int,
        spool: int,
        versions: dict[str, Version],
        renewal: object = None,
        proxies: object = None,
        reached: Sequence[tuple[str, int]] = (),
        before: tuple[dict[str, object], int] | None = None,
    ) -> None:
        self.channel = channel
        self.listeners = listeners
        self.secret = secret
        self.spool = spool
        self.versions = versions
        self.renewal = renewal
        self.proxies = proxies
        self.reached = reached
        self.before = before


class Contexts:
    """SSL contexts for our protocols: one for all, as each costs memory. ALPN is read when a connection begins."""

    def __init__(self, tls_cas: Sequence[str], secret: int) -> None:
        self._context = client_context(list(tls_cas), alpn=["tinyport-tunnel"])
        # OpenSSL reads the key itself; it never is a Python object.
        self._context.load_cert_chain(f"/proc/self/fd/{secret}")
        # Renegotiation and tickets are of no use to connections that stay for days.
        self._context.options |= ssl.OP_NO_TICKET

    def __call__(self, protocol: str) -> ssl.SSLContext:
        self._context.set_alpn_protocols([protocol])
        return self._context
