"""Names: which ones are allowed, and how hostile text is shown. Light: monitor and link load it."""

from __future__ import annotations

from tinyport.core.errors import PeerError

_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_WORD = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_HEX = frozenset("0123456789abcdef")
_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")


def _check(value: object, what: str, first: frozenset[str], rest: frozenset[str], limit: int, rule: str) -> str:
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= limit
        or value[0] not in first
        or not rest.issuperset(value)
    ):
        raise PeerError(f"{what} {printable(str(value), 60)!r} is not allowed", hint=f"{what}s are {rule}")
    return value


def check_cluster(value: object) -> str:
    """A cluster's name: DNS labels, lower case (``farm.example``), at most 100 characters."""
    name = _check(value, "cluster name", _LOWER, _LOWER | frozenset("-."), 100, "lower-case DNS names")
    for label in name.split("."):
        if not label or len(label) > 63 or label[0] == "-" or label[-1] == "-":
            raise PeerError(f"cluster name {name!r} is not a DNS name")
    return name


def check_node(value: object) -> str:
    """A node's name: lower-case letters, digits and dashes, dots between; at most 63; not shaped like a UUID."""
    rule = "lower-case letters, digits, '-' and '.', at most 63 characters"
    name = _check(value, "node name", _LOWER, _LOWER | frozenset("-."), 63, rule)
    for label in name.split("."):
        if not label or label[0] == "-" or label[-1] == "-":
            raise PeerError(f"node name {name!r} is not allowed", hint=f"node names are {rule}")
    if is_uuid(name):
        # A node named like another node's UUID would answer for it.
        raise PeerError("a node name must not look like a UUID")
    return name


def check_login(value: object) -> str:
    """A login on a machine, as useradd and Samba allow it: at most 32 characters."""
    first = _WORD
    return _check(
        value,
        "login",
        first,
        first | frozenset("-.$"),
        32,
        "letters, digits, '_', '-', '.', at most 32 characters",
    )


#: The one principal of somebody who works through the API alone (an auditor). No account can have this name, and no
#: certificate may go without principals, which some readers take for "everybody".
NO_LOGIN = "-no-login"


def check_user(value: object) -> str:
    """A user of the cluster. ``@`` separates the cluster of a user from elsewhere, so the name has none."""
    return _check(
        value,
        "user name",
        _WORD,
        _WORD | frozenset("-.+"),
        64,
        "letters, digits and '_', '-', '.', '+', at most 64",
    )


def check_role(value: object) -> str:
    return _check(
        value,
        "role name",
        _WORD,
        _WORD | frozenset("-."),
        64,
        "letters, digits and '_', '-', '.', at most 64",
    )


def check_label(key: object, value: object) -> tuple[str, str]:
    """A label: the key is a word (with ``-./`` inside), the value printable text of at most 256 characters."""
    name = _check(
        key,
        "label key",
        _WORD,
        _WORD | frozenset("-./:"),
        64,
        "letters, digits and '_', '-', '.', '/', ':', at most 64",
    )
    if not isinstance(value, str) or len(value) > 256 or printable(value, 1024) != value:
        raise PeerError(f"the value of label {name!r} is not allowed", hint="printable text, at most 256 characters")
    return name, value


def is_uuid(value: str) -> bool:
    """True for 8-4-4-4-12 lower-case hexadecimal digits."""
    parts = value.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and all(_HEX.issuperset(part) for part in parts)


def is_pin(text: str) -> bool:
    """Is it the pin of a TLS CA: ``sha256:`` and 64 lower-case hexadecimal digits?"""
    return len(text) == 71 and text.startswith("sha256:") and _HEX.issuperset(text[7:])


def check_fingerprint(value: object) -> str:
    """``SHA256:`` and 43 characters of base64, as ``ssh-keygen -l`` prints a key's."""
    text = value.removeprefix("SHA256:") if isinstance(value, str) else ""
    if value != f"SHA256:{text}" or len(text) != 43 or not _BASE64.issuperset(text):
        raise PeerError(f"{printable(str(value), 60)!r} is not a key's fingerprint", hint="tsh status prints it")
    return str(value)


def printable(text: str, limit: int = 200) -> str:
    """``text`` made safe for one line of a terminal, a log or a page.

    Control characters, line ends, bidirectional overrides, private and unassigned characters become ``\\xNN`` or
    ``\\uNNNN`` (all that str.isprintable calls so, but for the ordinary space); what is longer than ``limit``
    characters is cut with an ellipsis.
    """
    if len(text) > limit:
        text = text[: max(limit - 1, 0)] + "…"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    point = ord(char)
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def parse_address(text: str, default_port: int | None = None) -> tuple[str, int]:
    """``host:port``, ``[v6]:port``, or a bare host when there is a default port → (host, port)."""
    host, port_text = text.strip(), ""
    if host.startswith("["):
        inside, bracket, after = host[1:].partition("]")
        if not bracket or (after and not after.startswith(":")):
            raise PeerError(f"{printable(text, 80)!r} is not an address", hint="write [address]:port")
        host, port_text = inside, after[1:]
    elif host.count(":") == 1:
        host, _, port_text = host.partition(":")
    # More than one colon and no brackets: an IPv6 address without a port.
    if not port_text:
        if default_port is None:
            raise PeerError(f"{printable(text, 80)!r} has no port", hint="write host:port")
        port_text = str(default_port)
    if not host or not port_text.isascii() or not port_text.isdigit() or int(port_text[:6]) > 65535:
        raise PeerError(f"{printable(text, 80)!r} is not an address", hint="write host:port")
    if len(host) > 253 or not host.isprintable() or " " in host or "/" in host:
        raise PeerError(f"{printable(text, 80)!r} is not an address", hint="write host:port")
    return host, int(port_text)


def format_address(host: str, port: int) -> str:
    """(host, port) → ``host:port``, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
