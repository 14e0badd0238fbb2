"""TLS over a non-blocking socket, for a loop of our own. Light: link loads it.

A non-blocking SSLSocket costs 26 kB a connection; asyncio's transport 286 kB and asyncio itself 10 MB.
"""

from __future__ import annotations

import selectors
import ssl

from tinyport.core.errors import PeerError, Unavailable
from tinyport.core.identity import from_peer_certificate

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from tinyport.core.identity import Identity

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

#: the code of a PeerError: one side does not know the CA of the other's certificate; it may have been rotated meanwhile
STALE = "stale_ca"
#: the code of an Unavailable: the server has no time for a handshake now
BUSY = "busy"
# A record is at most 16 KiB of plain text; a few at a time, so that one peer cannot keep the loop for itself.
_CHUNK = 16 * 1024
_PER_TURN = 8 * _CHUNK


class TlsStream:
    """One TLS connection. Takes over a connected, non-blocking socket.

    Order: made; ``turn`` is called whenever the socket is ready for what ``wants`` says, until ``established``; then
    ``turn`` gives what was read. ``send`` may be called at any time. The owner calls ``close`` once, however it ends.
    At most ``send_limit`` bytes wait to be sent.
    """

    __slots__ = ("_limit", "_out", "_read_wants_write", "_sock", "ended", "established")

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        send_limit: int = 256 * 1024,
        server_hostname: str | None = None,
    ) -> None:
        sock.setblocking(False)
        self._sock = context.wrap_socket(
            sock, server_side=server_side, do_handshake_on_connect=False, server_hostname=server_hostname
        )
        self._out = bytearray()
        self._limit = send_limit
        self._read_wants_write = False
        #: the handshake is over; ``identity`` and ``alpn`` can be asked
        self.established = False
        #: the peer has closed its side
        self.ended = False

    def fileno(self) -> int:
        return self._sock.fileno()

    def wants(self) -> int:
        """The selectors events to wait for."""
        writing = bool(self._out) if self.established else self._read_wants_write
        return READ | (WRITE if writing or self._read_wants_write else 0)

    @property
    def alpn(self) -> str | None:
        return self._sock.selected_alpn_protocol()

    def identity(self) -> Identity:
        """Who the peer is. PeerError when its certificate does not say, or it has none; Unavailable when the
        connection broke as soon as the handshake was over, after which OpenSSL does not tell."""
        try:
            certificate = self._sock.getpeercert()
        except ValueError:
            raise Unavailable("the connection was closed") from None
        return from_peer_certificate(certificate)

    def peer_address(self) -> tuple[str, int]:
        """(host, port) that the connection goes to."""
        host, port = self._sock.getpeername()[:2]
        return str(host), int(port)

    def local_address(self) -> tuple[str, int]:
        host, port = self._sock.getsockname()[:2]
        return str(host), int(port)

    def send(self, data: bytes) -> None:
        """Queue, and send what the socket takes at once. Unavailable when too much waits already."""
        if len(self._out) + len(data) > self._limit:
            raise Unavailable("the peer does not read what it is sent")
        self._out += data
        if self.established:
            self._flush()

    @property
    def waiting(self) -> int:
        """Bytes that are not sent yet."""
        return len(self._out)

    def turn(self) -> bytes:
        """Do what can be done now, and return what was read (possibly nothing).

        PeerError when the peer's certificate or its TLS is not right, Unavailable when the connection broke.
        """
        if not self.established and not self._handshake():
            return b""
        self._flush()
        return self._read()

    def flush(self) -> bytes:
        """``turn``, but for reading."""
        if self.established:
            self._flush()
        return b""

    def _handshake(self) -> bool:
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            self._read_wants_write = False
        except ssl.SSLWantWriteError:
            self._read_wants_write = True
        except (ssl.SSLError, OSError) as error:
            raise _fault(error) from None
        else:
            self._read_wants_write = False
            self.established = True
        return self.established

    def _flush(self) -> None:
        try:
            while self._out:
                del self._out[: self._sock.send(self._out[:_CHUNK])]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except (ssl.SSLError, OSError) as error:
            raise _fault(error) from None

    def _read(self) -> bytes:
        pieces = bytearray()
        try:
            # What OpenSSL has decrypted already is invisible to the selector, so it is always taken whole.
            while len(pieces) < _PER_TURN or self._sock.pending():
                piece = self._sock.recv(_CHUNK)
                if not piece:
                    self.ended = True
                    break
                pieces += piece
            self._read_wants_write = False
        except ssl.SSLWantReadError:
            self._read_wants_write = False
        except ssl.SSLWantWriteError:
            self._read_wants_write = True
        except (ssl.SSLError, OSError) as error:
            if pieces:
                # What came before the break is still worth reading; the next turn finds the break again.
                return bytes(pieces)
            raise _fault(error) from None
        return bytes(pieces)

    def close(self) -> None:
        """Close at once; what was not sent is lost."""
        try:
            # One try to say close_notify: it is part of TLS, but not worth waiting for.
            if self.established:
                self._sock.setblocking(False)
                self._sock.unwrap()
        except (ssl.SSLError, OSError, ValueError):
            pass
        self._sock.close()


def _fault(error: OSError) -> PeerError | Unavailable:
    """Whose fault is it? Certificates and TLS: the peer's. A connection that broke: nobody's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return PeerError("the server's certificate is not of this cluster", detail=error.verify_message, code=STALE)
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return Unavailable("the connection was closed")
    if isinstance(error, ssl.SSLError):
        reason = str(getattr(error, "reason", None) or error)
        if "CERTIFICATE_EXPIRED" in reason:
            return PeerError("the peer says that our certificate has expired", code="expired")
        if "INTERNAL_ERROR" in reason:
            # docs/protocol/tunnel.md: a proxy says it instead of a handshake; nothing was agreed yet, so anybody on the
            # way could have said it, and could as well have cut the connection.
            return Unavailable("the server is too busy, or cannot reach who was asked for", code=BUSY)
        if "UNKNOWN_CA" in reason:
            return PeerError("the peer does not know the CA of our certificate", code=STALE)
        return PeerError("the peer's TLS is not right", detail=reason)
    return Unavailable("the connection broke", detail=str(error))
