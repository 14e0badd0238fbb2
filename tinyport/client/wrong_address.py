"""What listens where a proxy was expected, so that a person who mistook an address reads what to type.

Asked only when a login did not get through; what is heard decides words and nothing else.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from tinyport.core.errors import OperatorError, PeerError, TinyportError, Unavailable
from tinyport.core.names import format_address, parse_address, printable
from tinyport.host.tls import unverified_context
from tinyport.link.api import ALPN as AUTH_ALPN
from tinyport.link.api import AuthClient
from tinyport.link.http_proxy import open_connection

PROXY_PORT = 3080
_PROXY_ALPN = "tinyport-ssh"
# A proxy waits for a second of silence before it says who it is; we are not silent.
_PATIENCE = 3.0
_LONGEST = 256
# What a proxy says of itself (proxy/ssh_options.py), and how a node's words begin (node/keeper, node/link).
_PROXY = b"SSH-2.0-tinyport\r\n"
_NODE = (b"SSH-2.0-tinyport_", b"tinyport: ")

Address = tuple[str, int]


def explained(error: TinyportError, address: Address) -> TinyportError:
    """``error``, which was met on the way to a proxy at ``address``, or one that says what is there instead."""
    host, port = address
    where = format_address(host, port)
    here = f'"tsh login --proxy {format_address(host, PROXY_PORT)}"'
    if isinstance(error, Unavailable) and error.message.startswith("cannot reach"):
        if not error.hint and port == PROXY_PORT and "refused" in error.message:
            error.hint = f"without a port {PROXY_PORT} is meant; many proxies are at 443: --proxy {host}:443"
        return error
    if not isinstance(error, (PeerError, Unavailable)):
        return error
    found = _found(address)
    hints = {
        "a tinyport node": "log in at the proxy of its cluster, whose address the operator knows",
        "an SSH server": f"log in at the cluster's proxy (port {PROXY_PORT}, unless the operator says otherwise)",
        "a web server": f"if the proxy is on the same host: {here}",
        "a web server without TLS": f"if the proxy is on the same host: {here}",
    }
    if found in hints:
        message = f"{where} is {found}, no proxy of a cluster"
        return OperatorError(message, detail=str(error), hint=hints[found], code="no_proxy")
    if found:
        hint = f"is the address right? A proxy is at port {PROXY_PORT}, unless the operator says otherwise"
        return OperatorError(f"{where} {found}", detail=str(error), hint=hint, code="no_proxy")
    return error


def _found(address: Address) -> str | None:
    """What is there; None for a proxy, whose trouble is another one, and when nobody can say."""
    said = _answer(address, b"SSH-2.0-tinyport_asks\r\n")
    # What follows its first line, its offer of algorithms, may come along with it.
    if said is None or said.startswith(_PROXY):
        return None
    if said.startswith(_NODE):
        return "a tinyport node"
    if said.startswith(b"SSH-"):
        return "an SSH server"
    tls = _speaks_tls(address, (AUTH_ALPN, "http/1.1"))
    if tls is not None:
        # Auth itself, whose trouble is another one, too.
        return None if tls == AUTH_ALPN else "a web server"
    web = _answer(address, b"GET / HTTP/1.0\r\n\r\n") or b""
    if web.startswith(b"HTTP/"):
        return "a web server without TLS"
    if said or web:
        line = printable((said or web).partition(b"\n")[0].strip().decode("utf-8", "replace"), 60)
        return f"is no proxy of a cluster: it says: {line}"
    return "closes connections, or says nothing; a proxy of a cluster answers"


def _answer(address: Address, question: bytes) -> bytes | None:
    """The first of what is said there; "" for nothing, None when there is no way there."""
    try:
        plain = open_connection(address, _PATIENCE)
    except (OSError, TinyportError):
        return None
    with plain:
        try:
            plain.sendall(question)
            return plain.recv(_LONGEST)
        except OSError:
            return b""


def _speaks_tls(address: Address, alpn: Sequence[str]) -> str | None:
    """The protocol that it chose, "" when none of ours; None when it does not speak TLS."""
    try:
        plain = open_connection(address, _PATIENCE)
    except (OSError, TinyportError):
        return None
    try:
        with plain, unverified_context(alpn=alpn).wrap_socket(plain) as secure:
            return secure.selected_alpn_protocol() or ""
    except (TimeoutError, OSError, ssl.SSLError):
        return None


def refuse_auths_own_port(address: Address, auth: AuthClient) -> None:
    """Auth answers logins at its own port as well, and then no node is reached from there. OperatorError where there is
    auth and no proxy. ``auth``: a client of it, which knows its proxies."""
    # What ends TLS before a proxy chooses neither.
    if _speaks_tls(address, (AUTH_ALPN,)) != AUTH_ALPN or _speaks_tls(address, (_PROXY_ALPN,)) != "":
        return
    proxy = _first(auth.request("GET", "/v1/hello").get("proxies")) or format_address(address[0], PROXY_PORT)
    raise OperatorError(
        f"{format_address(*address)} is auth's own port; people log in at a proxy",
        hint=f'run "tsh login --proxy {proxy}"',
        code="no_proxy",
    )


def _first(proxies: object) -> str | None:
    for one in proxies if isinstance(proxies, list) else ():
        try:
            return format_address(*parse_address(str(one)))
        except PeerError:
            continue
    return None
