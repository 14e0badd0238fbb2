"""One SSH connection of the worker: asyncssh's protocol with the keeper's key, judgement and sessions."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any, cast

import asyncssh

from tinyport.core.errors import PeerError, TinyportError, Unavailable
from tinyport.core.ssh_algorithms import AUTHENTICATED
from tinyport.host.logging_line import Log
from tinyport.node.worker.bounds import BoundedConnection
from tinyport.node.worker.channel import NodeSession, SessionChannel
from tinyport.node.worker.extensions import ExtendedConnection
from tinyport.node.worker.forward import ForwardingConnection
from tinyport.node.worker.hostkey import MAX_VERSION, KeeperKey, RecordingHash, TranscriptTooLarge
from tinyport.node.worker.idle import WatchedConnection
from tinyport.node.worker.keeper import Answer, KeeperLine, base64_text, close_all
from tinyport.node.worker.packets import LeanPackets

CERTIFICATE_ALGORITHM = b"ssh-ed25519-cert-v01@openssh.com"
PLAIN_ALGORITHM = b"ssh-ed25519"
# What the keeper takes; it ends a worker that asks for more, so a stranger's nonsense stops here.
MAX_LOGIN = 256
MAX_KEY = 64 * 1024
MAX_REQUEST = 96 * 1024
MAX_SIGNATURE = 16 * 1024
# Each session may hold its window for a process that does not read: with 512 of them some 100 MB, not 600.
WIDE_SESSIONS, NARROW_WINDOW = 16, 64 * 1024
# The keeper starts one after the other; what a client opens and closes again meanwhile is never asked for.
OPENED_AT_ONCE = 8
# Signals are not queued by the kernel either: a flood of them is one.
SIGNALS_AT_ONCE = 16


class Owner(asyncssh.SSHServer):
    """asyncssh asks its owner; the answers are the connection's, or no."""

    _connection: NodeConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        assert isinstance(conn, NodeConnection)
        self._connection = conn

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connection.over(exc)

    def begin_auth(self, username: str) -> bool:
        del username
        assert self._connection is not None
        self._connection.greet()
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def session_requested(self) -> Any:
        assert self._connection is not None
        return self._connection.make_session()


class NodeConnection(LeanPackets, BoundedConnection, ForwardingConnection, ExtendedConnection, WatchedConnection):
    """``serve``: the keeper's message about it. ``over`` tells the keeper, once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: asyncssh.SSHServerConnectionOptions,
        keeper: KeeperLine,
        serve: dict[str, object],
        log: Log,
        gone: Any,
    ) -> None:
        super().__init__(loop, options, wait=None)
        self.number = cast(int, serve["conn"])
        self.permits_pty = False
        self._version = str(serve["version"]).encode("ascii")
        self._keeper = keeper
        self._log = log
        self._greeting = str(serve.get("banner") or "")
        self._gone = gone
        self._is_over = False
        # The plain key is named first: dropbear's client guesses it, and asyncssh does not count the host key algorithm
        # when it judges a guess (RFC 4253 section 7). The client's order decides which one is used.
        self._keys = {
            PLAIN_ALGORITHM: base64.b64decode(str(serve["host_key"])),
            CERTIFICATE_ALGORITHM: base64.b64decode(str(serve["host_certificate"])),
        }
        self._plain_key = self._keys[PLAIN_ALGORITHM]
        limits = cast("dict[str, Any]", serve["limits"])
        self._max_sessions = int(limits["sessions"])
        #: channels that are open, and those of them by number that the keeper was asked to start
        self._sessions: set[NodeSession] = set()
        self._started: dict[int, NodeSession] = {}
        self._last_session = 0
        self._opening = asyncio.Semaphore(OPENED_AT_ONCE)
        self._signals = 0
        self._keeper_key: KeeperKey | None = None
        self._told: set[str] = set()
        self._proving = False
        # asyncssh offers key exchange with a host key only when there are algorithms for it.
        self._server_host_key_algs = list(self._keys)

    # ------------------------------------------------------------------ key exchange

    def choose_server_host_key(self, peer_host_key_algs: Sequence[bytes]) -> bool:
        """The client's first choice of what we have (RFC 4253 section 7.1), and a key exchange that is recorded."""
        for algorithm in peer_host_key_algs:
            if algorithm in self._keys:
                assert self._kex is not None
                recording = RecordingHash(self._kex._hash_alg)
                self._kex._hash_alg = cast(Any, recording)
                self._keeper_key = KeeperKey(algorithm, self._keys[algorithm], recording, self._sign)
                return True
        return False

    def _choose_alg(self, alg_type: str, local_algs: Sequence[bytes], remote_algs: Sequence[bytes]) -> bytes:
        """asyncssh before 2.21 wants a MAC in common for ciphers that have none, which dropbear's client has not."""
        ciphers = (self._enc_alg_cs, self._enc_alg_sc)
        if alg_type == "MAC" and all(cipher.decode("ascii") in AUTHENTICATED for cipher in ciphers):
            return local_algs[0]
        return super()._choose_alg(alg_type, local_algs, remote_algs)

    def get_server_host_key(self) -> Any:
        return self._keeper_key

    def _sign(self, hash_name: str, transcript: bytes) -> bytes:
        if len(self._client_version) > MAX_VERSION:
            raise asyncssh.KeyExchangeFailed("the client's version is too long")
        try:
            answer, _ = self._keeper.ask_now(
                "kex", conn=self.number, hash=hash_name, transcript=base64_text(transcript)
            )
        except TinyportError as error:
            raise asyncssh.KeyExchangeFailed(error.message) from None
        return base64.b64decode(str(answer["signature"]))

    # ------------------------------------------------------------------ authentication

    async def reload_config(self) -> None:
        """asyncssh builds its options anew for each user name, in a thread. Ours depend on nobody."""

    def greet(self) -> None:
        if self._greeting:
            self.send_auth_banner(self._greeting if self._greeting.endswith("\n") else f"{self._greeting}\n")
            self._greeting = ""

    async def validate_public_key(self, username: str, key_data: bytes, msg: bytes, signature: bytes) -> bool:
        """Both forms of a publickey request (RFC 4252 section 7) are the keeper's to judge, as a whole."""
        # A client that does not wait for the answer makes asyncssh forget the request. The keeper does not: once
        # it said
        # yes, another request is out of order and would end this worker, with everybody in it.
        if self._proving or len(username) > MAX_LOGIN or len(key_data) > MAX_KEY:
            return False
        try:
            if not msg:
                await self._keeper.ask("query", conn=self.number, user=username, certificate=base64_text(key_data))
                return True
            if len(msg) > MAX_REQUEST or len(signature) > MAX_SIGNATURE:
                return False
            self._proving = True
            answer, _ = await self._keeper.ask(
                "prove",
                conn=self.number,
                user=username,
                message=base64_text(msg),
                signature=base64_text(signature),
            )
        except TinyportError as error:
            self._proving = False
            self._explain(error)
            return False
        permits = answer.get("permits")
        self.permits_pty = isinstance(permits, dict) and bool(permits.get("pty"))
        return True

    def _explain(self, error: TinyportError) -> None:
        """The reason as a banner: ssh shows it before its "Permission denied". Not for plain keys, which people have
        beside their certificate, and each reason once.
        """
        if error.code in ("plain", "proof") or error.message in self._told or self.is_closed():
            return
        self._told.add(error.message)
        self.send_auth_banner(f"tinyport: {error.message}\n")

    # ------------------------------------------------------------------ sessions

    def make_session(self) -> tuple[SessionChannel, NodeSession]:
        if self.no_more_sessions:
            reason = "this connection has said that it opens no more sessions"
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, reason)
        if len(self._sessions) >= self._max_sessions:
            reason = f"too many sessions on this connection, {self._max_sessions} are allowed"
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, reason)
        session = NodeSession(self, self._loop)
        self._sessions.add(session)
        window = self._window if len(self._sessions) <= WIDE_SESSIONS else NARROW_WINDOW
        channel = SessionChannel(self, self._loop, True, False, False, 0, 0, None, "strict", window, self._max_pktsize)
        return channel, session

    async def open_session(self, session: NodeSession, request: dict[str, object]) -> Answer:
        await self.requests_answered()
        async with self._opening:
            if self._is_over or session not in self._sessions:
                raise Unavailable("the session is gone")
            # Numbered here, not when the channel opens: the keeper wants numbers that rise.
            self._last_session += 1
            session.number = self._last_session
            self._started[session.number] = session
            return await self._keeper.ask("open", conn=self.number, session=session.number, **request)

    def signal_session(self, session: NodeSession, signal: str) -> None:
        """Without a word when there is no such signal (RFC 4254 section 6.9 has no place for one)."""
        if self._signals < SIGNALS_AT_ONCE and not self._is_over:
            self._signals += 1
            self.create_task(self._signal(session.number, signal))

    async def _signal(self, number: int, signal: str) -> None:
        try:
            await self._keeper.ask("signal", conn=self.number, session=number, signal=signal)
        except TinyportError as error:
            self._log.debug("a signal is not sent", reason=error)
        finally:
            self._signals -= 1

    def hang_up(self, session: NodeSession) -> None:
        """Nobody is left at the session's other end."""
        if not self._is_over:
            self._keeper.tell("hangup", conn=self.number, session=session.number)

    def session_over(self, session: NodeSession) -> None:
        self._sessions.discard(session)
        self._started.pop(session.number, None)

    def session_exited(self, message: dict[str, object]) -> None:
        """The keeper's ``exit``."""
        session = self._started.get(cast(int, message["session"]))
        if session is not None:
            status, signal = message.get("status"), message.get("signal")
            session.exited(
                status if isinstance(status, int) else None,
                signal if isinstance(signal, str) else None,
                bool(message.get("core")),
            )

    def party_changed(self, message: dict[str, object], descriptors: list[int]) -> None:
        """The keeper's ``party`` and ``part``: somebody joins a session, or leaves it."""
        session = self._started.get(cast(int, message["session"]))
        if session is None or not session.party_changed(message, descriptors):
            close_all(descriptors)

    def party_dropped(self, session: NodeSession, party: int) -> None:
        if not self._is_over:
            self._keeper.tell("dropped", conn=self.number, session=session.number, party=party)

    def recording_failed(self, session: NodeSession, why: str) -> None:
        """It must be recorded, and is not any more."""
        if not self._is_over:
            self._keeper.tell("unrecorded", conn=self.number, session=session.number, message=why)

    def recording_over(self, session: NodeSession, lost: int) -> None:
        """``lost``: bytes that no frame tells of."""
        if not self._is_over:
            self._keeper.tell("recorded", conn=self.number, session=session.number, lost=lost)

    def close_session(self, message: dict[str, object]) -> None:
        """The keeper's ``close``: somebody has ended this one session."""
        session = self._started.get(cast(int, message["session"]))
        if session is not None:
            session.close_because(str(message["text"]))

    # ------------------------------------------------------------------ the end

    def end(self, text: str) -> None:
        """The keeper's ``end``: say why, and go."""
        if self.is_closed() or self._transport is None:
            self.over(None)
            return
        # Not disconnect(): it closes the channels first, and ssh(1) then may leave before it has read the reason.
        self._send_disconnect(asyncssh.DISC_BY_APPLICATION, text, "en")
        self._force_close(None)

    def never_made(self) -> None:
        """There was no transport, so asyncssh will not say that it is over."""
        self._cancel_login_timer()
        self.over(None)

    def over(self, exc: Exception | None) -> None:
        """It is over, for whatever reason. The keeper then lets go of its copy of the socket."""
        if self._is_over:
            return
        self._is_over = True
        self.stop_watching()
        if isinstance(exc, (PeerError, TranscriptTooLarge)):
            self._log.info("a connection failed", reason=exc)
        self.stop_asking()
        self._keeper.tell("gone", conn=self.number)
        self._gone(self.number)
