"""The HTTP proxy that the environment names (``HTTPS_PROXY``, ``NO_PROXY``), and a connection through it. Light."""

from __future__ import annotations

import binascii
import os
import socket
import time

from tinyport.core.errors import PeerError, Unavailable
from tinyport.core.names import format_address, parse_address
from tinyport.link.httphead import parse_head

TYPE_CHECKING = False
if TYPE_CHECKING:
    Address = tuple[str, int]

#: what a process needs of our environment to find it
VARIABLES = ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY")


def proxy_for(host: str, environment: dict[str, str] | None = None) -> Address | None:
    """The HTTP proxy that the environment names for TLS connections to ``host``; None for none (or a wrong one)."""
    names = os.environ if environment is None else environment
    text = names.get("https_proxy") or names.get("HTTPS_PROXY") or ""
    exempt = [word.strip().lstrip(".") for word in (names.get("no_proxy") or names.get("NO_PROXY") or "").split(",")]
    if not text or "*" in exempt or any(word and (host == word or host.endswith(f".{word}")) for word in exempt):
        return None
    if host in ("localhost", "::1") or host.startswith("127."):
        return None
    bare = text.partition("://")[2] or text
    try:
        return parse_address(bare.partition("/")[0].rpartition("@")[2], 3128)
    except PeerError:
        return None


def _unquoted(text: str) -> bytes:
    """``%40`` → ``@`` (RFC 3986 section 2.1); urllib is too large for link."""
    first, *pieces = text.encode().split(b"%")
    found = [first]
    for piece in pieces:
        try:
            found += [bytes([int(piece[:2].decode("ascii"), 16)]) if len(piece) >= 2 else b"%" + piece, piece[2:]]
        except ValueError:
            found.append(b"%" + piece)
    return b"".join(found)


def _authorization(environment: dict[str, str] | None = None) -> str:
    """The header field for ``http://USER:PASSWORD@HOST`` (RFC 7617), with its line's end; "" without a user."""
    names = os.environ if environment is None else environment
    text = names.get("https_proxy") or names.get("HTTPS_PROXY") or ""
    user, at, _ = (text.partition("://")[2] or text).partition("/")[0].rpartition("@")
    if not at:
        return ""
    name, _, password = user.partition(":")
    basic = binascii.b2a_base64(_unquoted(name) + b":" + _unquoted(password), newline=False).decode("ascii")
    return f"Proxy-Authorization: Basic {basic}\r\n"


def connect_request(where: str, environment: dict[str, str] | None = None) -> bytes:
    """RFC 9110 section 9.3.6, for ``host:port``, with the credentials that the environment has for the proxy."""
    return f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n{_authorization(environment)}\r\n".encode()


def connected_through(held: bytes | bytearray, where: str) -> bool:
    """Has the proxy said that we are connected? False while its answer is not whole; Unavailable when it will not,
    PeerError when it is no HTTP proxy.
    """
    head = parse_head(held)
    if head is None:
        return False
    if head.status() == 407:
        hint = "HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"
        raise Unavailable("the HTTP proxy wants a name and password", detail=head.start, hint=hint)
    if not 200 <= head.status() < 300:
        raise Unavailable(f"the HTTP proxy refused {where}", detail=head.start)
    if head.rest:
        raise PeerError("the HTTP proxy sent something before we did")
    return True


def open_connection(address: Address, timeout: float) -> socket.socket:
    """A connection to ``address``, through the environment's proxy if it names one. OSError when nobody answers,
    Unavailable or PeerError for what the proxy says, or when its answer is not whole after ``timeout`` seconds.
    """
    end = time.monotonic() + timeout
    via = proxy_for(address[0])
    opened = socket.create_connection(via or address, timeout)
    if via is None:
        return opened
    where = format_address(*address)
    held = bytearray()
    try:
        opened.sendall(connect_request(where))
        while not connected_through(held, where):
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            opened.settimeout(left)
            piece = opened.recv(4096)
            if not piece:
                raise Unavailable("the HTTP proxy closed the connection")
            held += piece
        opened.settimeout(timeout)
    except TimeoutError:
        opened.close()
        proxy = format_address(*via)
        raise Unavailable(f"the HTTP proxy at {proxy} does not answer", hint="HTTPS_PROXY names it") from None
    except BaseException:
        opened.close()
        raise
    return opened
