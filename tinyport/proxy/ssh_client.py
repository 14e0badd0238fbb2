"""SSH from here to somebody else's server, in the name of a web session's user.

What a browser is shown of a node ends in the proxy; here it begins. The host is judged wholly by our own rules, and the
user's certificate is the one of minutes that auth issued for the session.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncssh

from tinyport.core.certificate import public_line
from tinyport.core.errors import AccessDenied, PeerError, TinyportError, Unavailable
from tinyport.core.host_judgement import judge_host
from tinyport.core.names import printable
from tinyport.core.ssh_algorithms import CIPHERS, KEX, on_offer
from tinyport.link.parting_words import heeding
from tinyport.proxy.splice import Splice
from tinyport.proxy.stream import Stream

CONNECT_LIMIT = 30.0
KEEPALIVE = (30, 4)
#: banners that are kept of a server: it may send them for as long as it lets nobody in
MOST_WORDS = 16


@dataclass(frozen=True)
class Host:
    """Whom we want: whose host certificate has ``principal``. ``role``: node or proxy."""

    cluster: str
    host_cas: Sequence[bytes]
    principal: str
    role: str = "node"


@dataclass(frozen=True)
class Person:
    """In whose name: OpenSSH's PEM and the certificate's line."""

    login: str
    ssh_key: str
    ssh_certificate: str


class SshLink:
    """An SSH connection that is up, with what carries it. Made by ``connected`` and ``onward``; ``leave`` or ``close``
    ends it and all below."""

    def __init__(
        self,
        connection: asyncssh.SSHClientConnection,
        words: list[str],
        *,
        cut: Callable[[], None],
        proxy: SshLink | None = None,
    ) -> None:
        """``cut`` ends what carries it, at once. ``proxy``: the link that it goes through."""
        self.connection = connection
        #: what the server said to the person while it let them in
        self.words = words
        self._cut = cut
        self._following = None if proxy is None else asyncio.ensure_future(self._follow(proxy))

    async def _follow(self, proxy: SshLink) -> None:
        await self.connection.wait_closed()
        proxy.leave()

    def leave(self) -> None:
        """Close in order: what was written still goes out."""
        self.connection.close()

    def close(self) -> None:
        """At once."""
        self.connection.abort()
        self._cut()


class _Judged:
    """Judges a host key, and remembers why not: asyncssh would say only that it was not."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.refused: list[TinyportError] = []

    def prepare(self, connection: Any) -> Any:
        # asyncssh's own judgement would look at names and time.time() only.
        connection.validate_server_host_key = self._judge
        return heeding(connection, asyncssh.DisconnectError)

    def _judge(self, key_data: bytes) -> asyncssh.SSHKey:
        host = self._host
        try:
            found = judge_host(
                key_data,
                host_cas=host.host_cas,
                cluster=host.cluster,
                principals=[host.principal],
                now=time.time(),
                role=host.role,
            )
        except PeerError as error:
            self.refused.append(error)
            raise asyncssh.HostKeyNotVerifiable(error.message) from None
        return asyncssh.import_public_key(public_line(found.public_key))


class _OverPair:
    """What asyncssh calls a tunnel: gives it our end of a socket pair, whose other end is joined with the stream."""

    def __init__(self, sock: socket.socket, judged: _Judged) -> None:
        self._sock = sock
        self._judged = judged

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int) -> tuple[Any, Any]:
        connection = self._judged.prepare(factory())
        return await asyncio.get_running_loop().create_connection(lambda: connection, sock=self._sock)


class _Through:
    """The same through a connection to a proxy."""

    def __init__(self, proxy: asyncssh.SSHClientConnection, judged: _Judged) -> None:
        self._proxy = proxy
        self._judged = judged

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int) -> tuple[Any, Any]:
        return await self._proxy.create_connection(lambda: self._judged.prepare(factory()), host, port)


async def connected(stream: Stream, host: Host, person: Person) -> SshLink:
    """Over ``stream``, which is owned from here.

    PeerError when it is not ``host``; AccessDenied with its words when it refuses; else Unavailable.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    splice = Splice(Stream(asyncio.get_running_loop(), theirs, stream.peer), stream)
    joined = asyncio.ensure_future(splice.run())

    def cut() -> None:
        splice.cut()
        joined.cancel()

    judged = _Judged(host)
    try:
        connection, words = await _connect(_OverPair(ours, judged), judged, host, person)
    except BaseException:
        cut()
        raise
    return SshLink(connection, words, cut=cut)


async def onward(link: SshLink, host: Host, person: Person) -> SshLink:
    """Through ``link``, a connection to a proxy, which is owned from here. Raises as ``connected``."""
    judged = _Judged(host)
    try:
        connection, words = await _connect(_Through(link.connection, judged), judged, host, person)
    except BaseException:
        link.close()
        raise
    return SshLink(connection, [*link.words, *words], cut=link.close, proxy=link)


async def _connect(
    way: object, judged: _Judged, host: Host, person: Person
) -> tuple[asyncssh.SSHClientConnection, list[str]]:
    """The connection, and what the server said to the person."""
    from asyncssh.encryption import get_encryption_algs
    from asyncssh.kex import get_kex_algs

    words: list[str] = []

    class Client(asyncssh.SSHClient):
        def auth_banner_received(self, msg: str, lang: str) -> None:
            if len(words) < MOST_WORDS:
                words.append(msg[:4096])

    key = asyncssh.import_private_key(person.ssh_key)
    certificate = asyncssh.import_certificate(person.ssh_certificate)
    try:
        connection = await asyncio.wait_for(
            asyncssh.connect(
                host.principal,
                22,
                tunnel=way,
                config=None,
                known_hosts=None,
                x509_trusted_certs=None,
                server_host_key_algs=["ssh-ed25519-cert-v01@openssh.com"],
                kex_algs=on_offer(KEX, get_kex_algs()),
                encryption_algs=on_offer(
                    [name for name in CIPHERS if "gcm" in name or "poly1305" in name], get_encryption_algs()
                ),
                compression_algs=None,
                client_factory=Client,
                username=person.login,
                client_keys=[(key, certificate)],
                preferred_auth=["publickey"],
                agent_path=None,
                gss_host=None,
                keepalive_interval=KEEPALIVE[0],
                keepalive_count_max=KEEPALIVE[1],
            ),
            CONNECT_LIMIT,
        )
    except (asyncssh.Error, OSError, asyncio.TimeoutError) as error:
        raise judged.refused[0] if judged.refused else as_ours(error, words) from None
    return connection, words


def as_ours(error: BaseException, words: Sequence[str]) -> TinyportError:
    """What asyncssh or the system raised; ``words``: what the server had said to the person."""
    said = printable(" ".join(" ".join(words).split()), 300)
    if isinstance(error, asyncssh.PermissionDenied):
        return AccessDenied(said or "the node refused you")
    if isinstance(error, asyncio.TimeoutError):
        return Unavailable("the node does not answer", hint="try again in a moment")
    if isinstance(error, asyncssh.ChannelOpenError):
        return AccessDenied(printable(error.reason, 300) or "the node opens no terminal")
    return Unavailable("the connection to the node broke", detail=str(error), hint="try again in a moment")
