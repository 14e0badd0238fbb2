"""An SSH connection to a node: asyncssh as the engine, every decision ours.

asyncssh reads no configuration, no known hosts, no agent and no keys of its own accord; it is loaded while the proxy is
being dialled.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinyport.client.dial import Dialled, dial
from tinyport.core.certificate import parse_public_line, public_line
from tinyport.core.errors import AccessDenied, PeerError, TinyportError, Unavailable
from tinyport.core.host_judgement import judge_host, wanted_principal
from tinyport.core.names import printable
from tinyport.host import libraries
from tinyport.host.user_identity import UserIdentity
from tinyport.link.parting_words import heeding

if TYPE_CHECKING:
    import asyncssh

#: The only kind of host key that auth certifies.
_HOST_KEY_ALGORITHMS = ["ssh-ed25519-cert-v01@openssh.com"]
# The best first, nothing weak after it.
_KEY_EXCHANGES = ["mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org"]
_CIPHERS = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"]

MAX_BANNER = 16 * 1024


def show_banner(message: str) -> None:
    """A node's banner, or its refusal in words, on standard error. Hostile text: line by line, escaped."""
    for line in message[:MAX_BANNER].rstrip("\r\n").splitlines():
        print(printable(line.expandtabs(), 500), file=sys.stderr)


@dataclass(frozen=True)
class Wish:
    """Where to, as whom, and how. ``keepalive``: seconds between questions, and how many may stay unanswered. ``hear``
    gets what the node says beside its sessions: hostile text.
    """

    target: str
    login: str
    forward_agent: bool = False
    keepalive: tuple[int, int] = (30, 3)
    hear: Callable[[str], None] = show_banner


class OpenWay:
    """What asyncssh calls a tunnel: hands it our open socket instead of one it would open itself."""

    def __init__(self, dialled: Dialled, judge: Callable[[bytes], asyncssh.SSHKey]) -> None:
        self._dialled = dialled
        self._judge = judge

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int) -> tuple[object, object]:
        from tinyport.link.tls_transport import SocketTransport

        connection = prepared(factory(), self._judge)
        transport = SocketTransport(asyncio.get_running_loop(), self._dialled.socket, connection, self._dialled.early)
        transport.start()
        return transport, connection


def prepared(connection: Any, judge: Callable[[bytes], asyncssh.SSHKey]) -> Any:
    """A client connection of asyncssh's, before it says anything, with the host key for ``judge`` to judge."""
    # The judgement of the host key is ours wholly; asyncssh's own would look at time.time() and at names only.
    connection.validate_server_host_key = judge
    connection._packet_handlers = {**connection._packet_handlers, **_patient(connection)}
    import asyncssh

    return heeding(connection, asyncssh.DisconnectError)


def _patient(connection: Any) -> dict[int, Any]:
    """Handlers for the answers to global requests that let whoever asked hear them before the next packet is read.

    asyncssh notes a remote listener a turn of the loop after the answer; what somebody connected in the meantime would
    be refused as a listener's that nobody asked for.
    """
    from asyncssh.constants import MSG_REQUEST_FAILURE, MSG_REQUEST_SUCCESS

    def answered(itself: Any, kind: int, number: int, packet: Any) -> Any:
        handlers[kind](itself, kind, number, packet)
        return asyncio.sleep(0)

    handlers = {kind: connection._packet_handlers[kind] for kind in (MSG_REQUEST_SUCCESS, MSG_REQUEST_FAILURE)}
    return dict.fromkeys(handlers, answered)


def _judge_for(
    identity: UserIdentity, wish: Wish, dialled: Dialled, refused: list[TinyportError]
) -> Callable[[bytes], asyncssh.SSHKey]:
    typed = wanted_principal(wish.target, identity.cluster)
    principals = [dialled.uuid] if typed is None else [typed, dialled.uuid]

    def judge(key_data: bytes) -> asyncssh.SSHKey:
        import asyncssh

        try:
            cert = judge_host(
                key_data,
                host_cas=[parse_public_line(line) for line in identity.host_cas],
                cluster=identity.cluster,
                principals=principals,
                now=time.time(),
            )
        except PeerError as error:
            refused.append(error)
            raise asyncssh.HostKeyNotVerifiable(error.message) from None
        return asyncssh.import_public_key(public_line(cert.public_key))

    return judge


def _client_class(hear: Callable[[str], None]) -> type[asyncssh.SSHClient]:
    import asyncssh

    class Client(asyncssh.SSHClient):
        def auth_banner_received(self, msg: str, lang: str) -> None:
            hear(msg)

        def debug_msg_received(self, msg: str, lang: str, always_display: bool) -> None:
            # Why a node refuses to listen, or to forward the agent or X11: SSH's answer has no place for it.
            if msg.startswith("tinyport: "):
                hear(msg)

    return Client


class Dialling:
    """A dial on its way in a thread, so that the SSH engine can load meanwhile: 0.2 s that the network needs anyway."""

    def __init__(self, identity: UserIdentity, wish: Wish) -> None:
        self._dialled: Dialled | None = None
        self._error: Exception | None = None
        # A daemon: somebody who presses Ctrl-C does not wait for the network.
        self._thread = threading.Thread(target=self._run, args=(identity, wish), daemon=True)
        self._thread.start()

    def _run(self, identity: UserIdentity, wish: Wish) -> None:
        try:
            self._dialled = dial(identity, wish.target, wish.login)
        except Exception as error:
            self._error = error

    def result(self) -> Dialled:
        """Wait for the open way; raises what ``dial`` raised."""
        libraries.ask_nobody()
        import asyncssh  # noqa: F401

        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._dialled is not None
        return self._dialled


@asynccontextmanager
async def connected(
    identity: UserIdentity, wish: Wish, dialled: Dialled
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """An authenticated connection over ``dialled``, which it closes in the end.

    Errors of asyncssh leave as ours: PeerError (the node is not who it should be), AccessDenied, Unavailable.
    """
    libraries.ask_nobody()
    import asyncssh

    refused: list[TinyportError] = []
    way = OpenWay(dialled, _judge_for(identity, wish, dialled, refused))
    try:
        connection = await asyncssh.connect(dialled.name, 22, tunnel=way, **engine_options(identity, wish))
    except (asyncssh.Error, OSError) as error:
        dialled.socket.close()
        raise refused[0] if refused else as_ours(error, dialled.name) from None
    except BaseException:
        dialled.socket.close()
        raise
    try:
        yield connection
    except (asyncssh.Error, ConnectionError) as error:
        raise as_ours(error, dialled.name) from None
    finally:
        connection.close()
        await connection.wait_closed()


def engine_options(identity: UserIdentity, wish: Wish) -> dict[str, Any]:
    """What asyncssh is told for every connection: the identity's key, algorithms, nothing of the machine's own."""
    import asyncssh

    key = asyncssh.import_private_key(identity.ssh_key)
    certificate = asyncssh.import_certificate(identity.ssh_certificate)
    interval, count = wish.keepalive
    return {
        "config": None,
        "known_hosts": None,
        "x509_trusted_certs": None,
        "server_host_key_algs": _HOST_KEY_ALGORITHMS,
        "kex_algs": [name for name in _KEY_EXCHANGES if name in _supported_exchanges()],
        "encryption_algs": _CIPHERS,
        "compression_algs": None,
        "client_factory": _client_class(wish.hear),
        "username": wish.login,
        "client_keys": [(key, certificate)],
        "preferred_auth": ["publickey"],
        "agent_path": None,
        "agent_forwarding": os.environ.get("SSH_AUTH_SOCK", False) if wish.forward_agent else False,
        "gss_host": None,
        "keepalive_interval": interval,
        "keepalive_count_max": count,
    }


def _supported_exchanges() -> set[str]:
    # Post-quantum exchanges need liboqs or a recent OpenSSL; asyncssh lists what it found.
    from asyncssh.kex import get_kex_algs

    return {name.decode("ascii") for name in get_kex_algs()}


def as_ours(error: Exception, node: str) -> TinyportError:
    """What asyncssh or the system raised on a connection to ``node``, by whose fault it is."""
    import asyncssh

    text = printable(str(getattr(error, "reason", "") or error), 500)
    where = printable(node, 80)
    if isinstance(error, asyncssh.PermissionDenied):
        return AccessDenied(f"{where} refused this login", detail=text)
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return PeerError(f"the host key of {where} cannot be verified: {text}")
    if isinstance(error, asyncssh.ConnectionLost):
        return Unavailable(f"the connection to {where} was lost")
    if isinstance(error, asyncssh.ChannelOpenError):
        return AccessDenied(f"{where} opened no channel: {text}")
    if isinstance(error, asyncssh.DisconnectError):
        return PeerError(f"{where} ended the connection: {text}")
    return Unavailable(f"the connection to {where} was lost", detail=text)
