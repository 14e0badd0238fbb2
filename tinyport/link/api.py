"""The auth API's client: blocking, one connection, JSON in and out (docs/protocol/api.md).

Command lines and enrolment speak through it. It needs the standard library alone; only ``pin_of`` loads
``cryptography``.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tinyport.core.errors import AccessDenied, OperatorError, PeerError, TinyportError, Unavailable
from tinyport.core.identity import from_peer_certificate
from tinyport.core.names import format_address
from tinyport.host.tls import client_context, unverified_context
from tinyport.link import front
from tinyport.link.http_proxy import open_connection
from tinyport.link.refusal import cannot_reach, error_of

ALPN = "tinyport-auth"
#: the code of a PeerError: the server's certificate is of a CA that we do not know, maybe because it is a newer one
UNKNOWN_CA = "unknown_ca"

#: A list of every node of a large fleet: 10,000 nodes of 2 kB, and room to grow.
MAX_ANSWER = 64 * 1024 * 1024
#: A hello is read from a server that nobody has vouched for yet.
MAX_HELLO = 256 * 1024
#: A signed policy of 1 MiB, escaped once more as JSON.
MAX_LINE = 4 * 1024 * 1024
TIMEOUT = 10.0
DOWNLOAD_TIMEOUT = 300.0
#: A whole hello: who sends a byte now and then has nobody's trust yet.
HELLO_LIMIT = 40.0
#: aiohttp closes idle connections after 75 s, load balancers after 60 s. A request sent into a closing connection is
#: lost, so a connection that rested for longer than this is not used again.
MAX_REST = 20.0


class _Connection(http.client.HTTPConnection):
    """An HTTP connection over whatever ``AuthClient`` opens."""

    def __init__(self, client: AuthClient, timeout: float) -> None:
        super().__init__("auth", timeout=timeout)
        self._client = client

    def connect(self) -> None:
        self.sock = self._client.open_socket()
        if self._client.was_cut:
            raise TimeoutError


class AuthClient:
    """A connection to auth, through a proxy or directly, or over auth's unix socket.

    ``address``: (host, port), or the path of the unix socket. ``tls_cas``: PEM texts of the TLS CAs to trust.
    ``cluster``: when given, a server of any other cluster is refused. ``server``: the word for what listens at
    ``address`` ("proxy" or "auth"), for messages. ``timeout``: seconds for each step.

    Connects at the first request, and again when the connection rested too long. Not for two threads at once.
    """

    def __init__(
        self,
        address: tuple[str, int] | Path,
        *,
        tls_cas: Sequence[str] = (),
        cert_pem: str | None = None,
        key_pem: str | None = None,
        timeout: float = TIMEOUT,
        cluster: str | None = None,
        server: str = "proxy",
    ) -> None:
        self.address = address
        self.cluster = cluster
        self._timeout = timeout
        self._server = server
        self._context: ssl.SSLContext | None = None
        if not isinstance(address, Path):
            self._context = self._make_context(tls_cas, cert_pem, key_pem)
        self._tls_cas = tls_cas
        self._certificate = cert_pem
        self._connection: _Connection | None = None
        self._last_use = 0.0
        self.was_cut = False

    def __enter__(self) -> AuthClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def _where(self) -> str:
        if isinstance(self.address, Path):
            return f"auth at {self.address}"
        return f"the {self._server} at {format_address(*self.address)}"

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        limit: int = MAX_ANSWER,
    ) -> dict[str, object]:
        """Ask, and wait for the whole answer (a JSON object of at most ``limit`` bytes).

        Raises what the API's error object says (``error_of``), Unavailable when something does not answer, PeerError
        when the answer is none.
        """
        response = self._ask(method, path, body)
        try:
            text = response.read(limit + 1)
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from None
        if len(text) > limit:
            self.close()
            raise PeerError(f"{self._where} sent more than {limit} bytes")
        self._last_use = time.monotonic()
        return self._object(response.status, text)

    def stream(self, method: str, path: str, *, silence: float | None = None) -> Iterator[dict[str, object]]:
        """Ask, and yield the objects of a newline-delimited answer as they come, until the server ends it.

        ``silence``: seconds without a byte after which Unavailable is raised; None waits for ever.
        """
        for line in self.lines(method, path, silence=silence):
            yield self._object(200, line)

    def lines(self, method: str, path: str, *, silence: float | None = None) -> Iterator[bytes]:
        """Ask, and yield the lines of an answer that are not empty, without their ends, as ``stream``."""
        response = self._ask(method, path, None)
        if response.status >= 400:
            raise error_of(response.status, self._object(response.status, response.read(MAX_HELLO)))
        if self._connection is not None and self._connection.sock is not None:
            self._connection.sock.settimeout(silence)
        held = bytearray()
        try:
            while True:
                try:
                    piece = response.read1(65536)
                except (OSError, http.client.HTTPException) as error:
                    raise self._lost(error) from None
                if not piece:
                    break
                held += piece
                *lines, rest = held.split(b"\n")
                held = bytearray(rest)
                if len(held) > MAX_LINE:
                    raise PeerError(f"{self._where} sent a line of more than {MAX_LINE} bytes")
                for line in lines:
                    if line.strip():
                        yield bytes(line)
        finally:
            # What is left of an endless answer cannot be skipped; the connection is of no more use.
            self.close()

    def download(self, method: str, path: str) -> Iterator[bytes]:
        """Ask, and yield an answer that is a file, piece by piece. PeerError when it was cut short, or is not what its
        ``Tinyport-Sha256`` says."""
        self.close()
        # The other side may have a large file to make first.
        self._timeout = DOWNLOAD_TIMEOUT
        response = self._ask(method, path, {} if method == "POST" else None)
        if response.status >= 400:
            raise error_of(response.status, self._object(response.status, response.read(MAX_HELLO)))
        digest = hashlib.sha256()
        try:
            while True:
                try:
                    piece = response.read(256 * 1024)
                except (OSError, http.client.HTTPException) as error:
                    raise self._lost(error) from None
                if not piece:
                    break
                digest.update(piece)
                yield piece
            if digest.hexdigest() != response.headers.get("Tinyport-Sha256"):
                raise PeerError(f"{self._where} was cut short", hint="try again")
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection; a later request opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None) -> http.client.HTTPResponse:
        if self._connection is not None and time.monotonic() - self._last_use > MAX_REST:
            self.close()
        fresh = self._connection is None
        try:
            return self._send(method, path, body)
        except TinyportError:
            self.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if fresh or method != "GET":
                raise (self._not_known(error) if fresh else None) or self._lost(error) from None
        # The server closed the connection just now (it restarted, say). A question may be asked twice.
        try:
            return self._send(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from None

    def _send(self, method: str, path: str, body: Mapping[str, object] | None) -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection = _Connection(self, self._timeout)
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", "User-Agent": "tinyport"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        self._connection.request(method, path, data, headers)
        return self._connection.getresponse()

    def _not_known(self, error: Exception) -> TinyportError | None:
        """Auth closes on seeing a certificate of a CA that it does not know, without a word. Was it that?"""
        closed = isinstance(error, (http.client.RemoteDisconnected, ConnectionError, ssl.SSLError))
        if not closed or self._certificate is None or isinstance(self.address, Path):
            return None
        from tinyport.link.known_auth import vouched_for

        try:
            with AuthClient(self.address, tls_cas=self._tls_cas, cluster=self.cluster, server=self._server) as auth:
                known = vouched_for(self._certificate, auth.request("GET", "/v1/hello"))
        except TinyportError:
            return None
        if known:
            return None
        return AccessDenied(
            "the CA that vouched for this certificate was replaced", code="login_required", hint='run "tsh login"'
        )

    def _object(self, status: int, text: bytes) -> dict[str, object]:
        try:
            answer = json.loads(text) if text.strip() else {}
        except (ValueError, RecursionError):
            answer = None
        if status >= 400:
            raise error_of(status, answer)
        if not isinstance(answer, dict):
            self.close()
            raise PeerError(
                f"{self._where} did not answer as auth does", hint="is this the address of a tinyport proxy?"
            )
        return answer

    def _lost(self, error: Exception) -> TinyportError:
        self.close()
        if isinstance(error, TimeoutError):
            return Unavailable(f"{self._where} does not answer", hint="try again in a moment")
        if isinstance(error, http.client.HTTPException) and not isinstance(error, http.client.RemoteDisconnected):
            return PeerError(f"{self._where} did not answer as auth does", detail=repr(error))
        return Unavailable(f"{self._where} closed the connection", detail=str(error), hint="try again in a moment")

    def cut(self) -> None:
        """End what is asked or will be, from another thread."""
        self.was_cut = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def open_socket(self) -> socket.socket:
        """A connected socket that speaks with auth and nobody else; Unavailable says what is down."""
        if isinstance(self.address, Path):
            return _open_unix(self.address, self._timeout)
        address = self.address
        try:
            plain = open_connection(address, self._timeout)
        except OSError as error:
            raise cannot_reach(self._where, error) from None
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._secure(plain) if self._server != "proxy" else self._secure_or_inside(plain, address)

    def _secure_or_inside(self, plain: socket.socket, address: tuple[str, int]) -> socket.socket:
        """Where TLS ends before the proxy, what it is to carry goes inside."""
        try:
            return self._secure(plain)
        except PeerError as error:
            try:
                inside = front.open_inside(address, self._timeout)
            except (OSError, TinyportError):
                # There is no proxy behind it either: what was wrong at first is what is wrong.
                raise error from None
        return self._secure(inside)

    def _secure(self, plain: socket.socket) -> socket.socket:
        assert self._context is not None
        try:
            secure = self._context.wrap_socket(plain, server_hostname=None)
        except ssl.SSLCertVerificationError as error:
            plain.close()
            raise PeerError(
                f"{self._where} is not the one that this cluster's CA vouches for",
                detail=error.verify_message,
                hint='run "tsh login"; if the cluster was made anew, with its "--ca-pin"',
                code=UNKNOWN_CA,
            ) from None
        except (ssl.SSLError, OSError) as error:
            plain.close()
            raise self._no_auth(error) from None
        try:
            if secure.selected_alpn_protocol() is None:
                raise PeerError(f"{self._where} does not speak our protocol")
            self._check_server(secure)
        except BaseException:
            secure.close()
            raise
        return secure

    def _make_context(self, tls_cas: Sequence[str], cert_pem: str | None, key_pem: str | None) -> ssl.SSLContext:
        return _context(tls_cas, cert_pem, key_pem)

    def _check_server(self, secure: ssl.SSLSocket) -> None:
        found = from_peer_certificate(secure.getpeercert())
        if found.kind != "auth" or (self.cluster is not None and found.cluster != self.cluster):
            raise PeerError(
                f"{self._where} is not auth of {self.cluster or 'the cluster'}", detail=f"it is {found.uri}"
            )
        self.cluster = found.cluster

    def _no_auth(self, error: Exception) -> TinyportError:
        # The proxy joins us to auth before a byte of TLS flows. When it cannot, it closes.
        ended = isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError, TimeoutError))
        if ended and self._server == "proxy":
            return Unavailable(
                f"{self._where} answers, but auth behind it does not",
                hint="sessions to nodes may still work; tell the operator",
            )
        if ended:
            return Unavailable(f"{self._where} accepts connections but does not answer")
        return PeerError(f"{self._where} does not speak our TLS", detail=str(error))


class _UncheckedClient(AuthClient):
    """Believes any server. For ``fetch_hello`` alone."""

    def _make_context(self, tls_cas: Sequence[str], cert_pem: str | None, key_pem: str | None) -> ssl.SSLContext:
        return unverified_context(alpn=[ALPN])

    def _check_server(self, secure: ssl.SSLSocket) -> None:
        return


def _context(tls_cas: Sequence[str], cert_pem: str | None, key_pem: str | None) -> ssl.SSLContext:
    if not tls_cas:
        raise OperatorError("there is no TLS CA to check the server with", hint="log in, or give --ca-pin")
    try:
        return client_context(list(tls_cas), alpn=[ALPN], cert_pem=cert_pem, key_pem=key_pem)
    except (ssl.SSLError, ValueError) as error:
        raise OperatorError("the stored certificates or keys are damaged", detail=str(error)) from None


def _open_unix(path: Path, timeout: float) -> socket.socket:
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    plain.settimeout(timeout)
    try:
        # A socket's name holds 107 bytes; by way of the folder's descriptor a data_dir may be as deep as it likes.
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            plain.connect(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
    except PermissionError:
        plain.close()
        raise OperatorError(f"{path} may not be used by this user", hint="run as the user of auth's service") from None
    except OSError as error:
        plain.close()
        raise cannot_reach(f"auth at {path}", error) from None
    return plain


def fetch_hello(address: tuple[str, int], *, timeout: float = TIMEOUT, server: str = "proxy") -> dict[str, object]:
    """``GET /v1/hello`` from a server that is not trusted yet. Nothing secret is sent, and nothing in the answer may be
    believed before ``check_pins`` found one of the pins in its ``tls_cas``.

    → {"cluster": str, "tls_cas": [PEM], "challenge": str, ...}, with these types checked.
    """
    with _UncheckedClient(address, timeout=timeout, server=server) as client:
        limit = threading.Timer(HELLO_LIMIT, client.cut)
        limit.daemon = True
        limit.start()
        try:
            answer = client.request("GET", "/v1/hello", limit=MAX_HELLO)
        finally:
            limit.cancel()
        if client.was_cut:
            raise Unavailable(
                f"the {server} at {format_address(*address)} does not answer", hint="try again in a moment"
            )
    cas = answer.get("tls_cas")
    if (
        not isinstance(answer.get("cluster"), str)
        or not isinstance(cas, list)
        or not cas
        or not all(isinstance(pem, str) for pem in cas)
    ):
        raise PeerError(
            f"the {server} at {format_address(*address)} did not answer as auth does",
            hint="is this the address of a tinyport proxy?",
        )
    return answer


def pin_of(pem: str) -> str:
    """A TLS CA certificate (PEM) → its pin, ``sha256:`` + hex of its DER SubjectPublicKeyInfo. PeerError when it is not
    a certificate.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        public = x509.load_pem_x509_certificate(pem.encode("utf-8", "replace")).public_key()
        der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        raise PeerError("the server's CA is not a certificate that can be read") from None
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def check_pins(tls_cas: Sequence[str], pins: Sequence[str]) -> list[str]:
    """Those of ``tls_cas`` (PEM) that one of ``pins`` names: the only ones to trust. OperatorError, with the pins of
    both sides, when there is none.
    """
    found = [(pin_of(pem), pem) for pem in tls_cas]
    wanted = {pin.strip().lower() for pin in pins}
    matching = [pem for pin, pem in found if pin in wanted]
    if not matching:
        raise OperatorError(
            f"the CA pin does not match: wanted {', '.join(sorted(wanted)) or 'none'}, "
            f"the server has {', '.join(pin for pin, _ in found) or 'none'}",
            hint="do not go on unless you know why; the right pin is in the answer of tctl status on the auth host",
            code="ca_pin",
        )
    return matching
