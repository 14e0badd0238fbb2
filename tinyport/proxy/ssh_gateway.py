"""OpenSSH's way through the proxy.

``ssh -J`` and ``ProxyCommand ssh -W`` (docs/protocol/tunnel.md, "OpenSSH").

An SSH server that opens direct-tcpip channels to nodes and nothing else. asyncssh speaks the protocol; who a
certificate's holder is and where they may go is decided by ``Gatekeeper``. What flows in a channel is SSH
from client to node, end to end.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack

import asyncssh

from tinyport.core.access import Subject
from tinyport.core.certificate import Certificate
from tinyport.core.errors import AccessDenied, PeerError, TinyportError
from tinyport.core.names import format_address
from tinyport.core.signatures import verify
from tinyport.core.ssh_algorithms import AUTHENTICATED
from tinyport.core.userauth import parse_publickey_request, signed_data
from tinyport.host.logging_line import Log
from tinyport.link.tls_transport import SocketTransport
from tinyport.proxy.access import Gatekeeper
from tinyport.proxy.cluster_tunnels import ClusterTunnels
from tinyport.proxy.ssh_channel import Pump, Watched, sentence
from tinyport.proxy.ssh_nodes import NodesOrNoShell
from tinyport.proxy.ssh_options import make_options
from tinyport.proxy.strangers import Stranger
from tinyport.proxy.stream import Stream

Peer = tuple[str, int]
#: (UUID, the client's address, login or "") → the stream that the node dialled back with
Dial = Callable[[str, Peer, str], Awaitable[Stream]]

# An agent full of other keys offers them all first; each costs a signature check at most.
MAX_AUTH_TRIES = 20
MAX_CHANNELS = 100
#: that are no ways to nodes: lists of nodes, and shells that explain
MAX_SESSIONS = 8
#: what stands before a cluster's name where its proxy is meant
PROXY_OF = "proxy."

SESSION_TEXT = (
    "This is the proxy of cluster {cluster}. It has no shell: use it to reach a node,\r\n"
    "    ssh -J {host} LOGIN@NODE\r\n"
)


class SshGateway:
    """Serves SSH connections to the proxy's port.

    One for the proxy's life; ``use`` gives it a renewed identity.
    """

    def __init__(
        self,
        gatekeeper: Gatekeeper,
        dial: Dial,
        clusters: ClusterTunnels,
        log: Log,
        *,
        cluster: str,
        host: str,
        ssh_key: str,
        ssh_certificate: str,
    ) -> None:
        self.gatekeeper = gatekeeper
        self.dial = dial
        self.clusters = clusters
        self.log = log
        self.session_text = SESSION_TEXT.format(cluster=cluster, host=host)
        self.use(ssh_key, ssh_certificate)
        self._ending: set[asyncio.Task[None]] = set()

    def use(self, ssh_key: str, ssh_certificate: str) -> None:
        """New connections are greeted with this host key (OpenSSH's PEM) and certificate (its line)."""
        self._options = make_options(ssh_key, ssh_certificate, _Server)

    def finish(self, stream: Stream) -> None:
        """Close a stream in order, in the background."""
        task = asyncio.ensure_future(stream.close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def serve(self, sock: socket.socket, peer: Peer, stranger: Stranger) -> None:
        """One connection, from its first byte to its end."""
        loop = asyncio.get_running_loop()
        connection = _Connection(loop, self._options, self, peer, stranger)
        if isinstance(sock, ssl.SSLSocket):
            # Through a tunnel of ours: the TLS is that of its dial-back.
            SocketTransport(loop, sock, connection, peer=peer).start()
        else:
            # The transport owns the socket from here; whoever called may close theirs.
            own = socket.socket(fileno=sock.detach())
            own.setblocking(False)
            await loop.connect_accepted_socket(lambda: connection, own)
        try:
            await connection.wait_closed()
        finally:
            connection.abort()


class _Connection(asyncssh.SSHServerConnection):
    """asyncssh's connection, with the judgement replaced wholly, and with back-pressure from the transport.

    Owns nothing but its channels' pumps; ``SshGateway.serve`` waits for its end.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: asyncssh.SSHServerConnectionOptions,
        gateway: SshGateway,
        peer: Peer,
        stranger: Stranger,
    ) -> None:
        super().__init__(loop, options, wait=None)
        self.gateway = gateway
        self.peer = peer
        self.stranger = stranger
        self.subject: Subject | None = None
        self.pumps: set[Pump] = set()
        #: the transport takes no more for now
        self.full = False
        self._tries = 0
        self._banners: set[str] = set()

    def _choose_alg(self, alg_type: str, local_algs: Sequence[bytes], remote_algs: Sequence[bytes]) -> bytes:
        """asyncssh before 2.21 wants a MAC in common for ciphers that have none, which dropbear's client has not."""
        ciphers = (self._enc_alg_cs, self._enc_alg_sc)
        if alg_type == "MAC" and all(cipher.decode("ascii") in AUTHENTICATED for cipher in ciphers):
            return local_algs[0]
        return super()._choose_alg(alg_type, local_algs, remote_algs)

    # asyncssh makes its options anew for every connection, in a thread; ours do not depend on who connects.
    async def reload_config(self) -> None:
        return

    # asyncssh's transport has no bound of its own: a client that grants a window of 4 GB and reads nothing
    # would fill us.
    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        for pump in self.pumps:
            pump.go_on()

    def public_key_auth_supported(self) -> bool:
        return True

    async def validate_public_key(self, username: str, key_data: bytes, msg: bytes, signature: bytes) -> bool:
        """Called for each key offered, with a signature (``msg``, ``signature``) or as a question (both
        empty)."""
        self._tries += 1
        if self._tries > MAX_AUTH_TRIES:
            raise asyncssh.DisconnectError(asyncssh.DISC_PROTOCOL_ERROR, "Too many authentication failures")
        try:
            certificate = Certificate.decode(key_data)
            subject = self.gateway.gatekeeper.subject(certificate, self.peer[0])
            if msg:
                self._check_signature(key_data, certificate, msg, signature)
                # Only what was proven counts; a certificate that was merely asked about must not.
                self.subject = subject
            return True
        except PeerError as error:
            self.gateway.log.debug("key refused", peer=format_address(*self.peer), reason=error)
        except TinyportError as error:
            self._explain(error)
        return False

    def _check_signature(self, key_data: bytes, certificate: Certificate, msg: bytes, signature: bytes) -> None:
        request = parse_publickey_request(msg)
        if request.key_blob != key_data:
            raise PeerError("the signed request is for another key")
        verify(certificate.public_key, signed_data(self._session_id, msg), signature)

    def _explain(self, error: TinyportError) -> None:
        """A banner: the only words that OpenSSH shows to a user who is not let in."""
        text = f"tinyport: {sentence(error)}\r\n"
        if text not in self._banners and len(self._banners) < 3:
            self._banners.add(text)
            self.send_auth_banner(text)


class _Server(asyncssh.SSHServer):
    """What one connection may do once its user is known: open channels to nodes."""

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        if not isinstance(conn, _Connection):
            raise TypeError("made for our own connections only")
        self._conn = conn
        self._watch = ExitStack()
        self._lost = False
        self._opening = 0
        #: those that are not for nodes
        self._sessions = 0

    def begin_auth(self, username: str) -> bool:
        self._conn.stranger.keyed()
        return True

    def auth_completed(self) -> None:
        conn = self._conn
        subject = conn.subject
        if subject is None:
            # Cannot be: asyncssh only succeeds by validate_public_key. If it ever does otherwise, the answer
            # is no.
            conn.abort()
            return
        conn.stranger.settle()
        watched = conn.gateway.gatekeeper.watched(subject, node=None, login=None, source=conn.peer[0], cut=self._cut)
        self._watch.enter_context(watched)
        conn.gateway.log.info("ssh client", user=subject.user, peer=format_address(*conn.peer))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._watch.close()

    def _cut(self, reason: str) -> None:
        self._conn.disconnect(asyncssh.DISC_BY_APPLICATION, reason)

    def session_requested(self) -> asyncssh.SSHServerSession[bytes]:
        # A list of a large fleet is megabytes, and waits here for as long as the client takes none of it.
        if self._sessions >= MAX_SESSIONS:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_RESOURCE_SHORTAGE, f"at most {MAX_SESSIONS} questions at once on one connection"
            )
        self._sessions += 1
        return NodesOrNoShell(self._conn.gateway.session_text, self._nodes, self._session_left)

    def _session_left(self) -> None:
        self._sessions -= 1

    async def _nodes(self, selectors: Sequence[str], search: str) -> Sequence[Mapping[str, object]]:
        conn = self._conn
        if conn.subject is None:
            raise AccessDenied("access denied")
        return await conn.gateway.gatekeeper.nodes(conn.subject.certificate, selectors, search, conn.peer[0])

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> Awaitable[asyncssh.SSHTCPSession[bytes]]:
        if self._opening + len(self._conn.pumps) >= MAX_CHANNELS:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_RESOURCE_SHORTAGE, f"at most {MAX_CHANNELS} sessions on one connection to the proxy"
            )
        return self._open(dest_host)

    async def _open(self, target: str) -> asyncssh.SSHTCPSession[bytes]:
        conn = self._conn
        gateway, subject = conn.gateway, conn.subject
        if subject is None:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "access denied")
        self._opening += 1
        try:
            stream, name, watched = await self._way(subject, target)
        except TinyportError as error:
            refused = isinstance(error, AccessDenied) and error.code not in ("offline", "no_such_node", "ambiguous")
            code = asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED if refused else asyncssh.OPEN_CONNECT_FAILED
            raise asyncssh.ChannelOpenError(code, sentence(error)) from None
        finally:
            self._opening -= 1
        if self._lost:
            stream.abort()
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the client is gone")
        gateway.log.info("session", user=subject.user, to=name, peer=format_address(*conn.peer))
        return Pump(conn, stream, name, watched, gateway.finish, gateway.log)

    async def _way(self, subject: Subject, target: str) -> tuple[Stream, str, Watched]:
        """To a node, or to the proxy of another cluster (``proxy.CLUSTER``) through its tunnel."""
        gateway, peer = self._conn.gateway, self._conn.peer
        cluster = target.removeprefix(PROXY_OF)
        if cluster != target and gateway.clusters.known(cluster):
            stream = await gateway.clusters.dial(subject, cluster, peer)
            node, name = None, target
        else:
            admitted = await gateway.gatekeeper.admit(subject.certificate, target, None, peer[0])
            stream = await gateway.dial(admitted.uuid, peer, "")
            subject, node, name, cluster = admitted.subject, admitted.uuid, admitted.name, ""

        def watched(cut: Callable[[str], None]) -> AbstractContextManager[None]:
            return gateway.gatekeeper.watched(
                subject, node=node, login=None, source=peer[0], cut=cut, cluster=cluster or None
            )

        return stream, name, watched
