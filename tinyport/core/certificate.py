"""OpenSSH certificates (PROTOCOL.certkeys): decoding, encoding, and the text forms of keys.

Nothing here trusts anything: ``Certificate.decode`` says what a blob claims, ``core.access`` judges it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tinyport.core.errors import PeerError
from tinyport.core.sshwire import Reader, string, strings, uint32, uint64

USER = 1
HOST = 2
FOREVER = 2**64 - 1

CERT_SUFFIX = "-cert-v01@openssh.com"
MAX_BLOB = 64 * 1024
# PROTOCOL.certkeys gives no limit; OpenSSH stops at 256 principals (SSHKEY_CERT_MAX_PRINCIPALS).
MAX_PRINCIPALS = 256
MAX_OPTIONS = 64
_JSON = json.JSONDecoder()

DOMAIN = "tinyport.dev"
EXT_CLUSTER = f"cluster@{DOMAIN}"
EXT_ROLE = f"role@{DOMAIN}"
EXT_HOST_UUID = f"host-uuid@{DOMAIN}"
EXT_NODENAME = f"nodename@{DOMAIN}"
EXT_GENERATION = f"generation@{DOMAIN}"
EXT_USER = f"user@{DOMAIN}"
EXT_ROLES = f"roles@{DOMAIN}"
EXT_TRAITS = f"traits@{DOMAIN}"
EXT_ROUTE = f"route-to-cluster@{DOMAIN}"
EXT_ISSUED_AT = f"issued-at@{DOMAIN}"
EXT_SECOND_FACTOR = f"second-factor@{DOMAIN}"
EXT_DEVICE = f"device@{DOMAIN}"

#: names that nearly every certificate has, so that they need not be decoded again and again
_NAMES = {
    name.encode(): name
    for name in (
        *(EXT_CLUSTER, EXT_ROLE, EXT_HOST_UUID, EXT_NODENAME, EXT_GENERATION, EXT_USER, EXT_ROLES, EXT_TRAITS),
        *(EXT_ROUTE, EXT_ISSUED_AT, EXT_SECOND_FACTOR, EXT_DEVICE),
        *(f"permit-{what}" for what in ("X11-forwarding", "agent-forwarding", "port-forwarding", "pty", "user-rc")),
    )
}

#: How many SSH strings follow the nonce in each key type's certificate: the plain key's own fields.
_KEY_FIELDS = {
    "ssh-ed25519": 1,
    "ssh-rsa": 2,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
    "sk-ssh-ed25519@openssh.com": 2,
    "sk-ecdsa-sha2-nistp256@openssh.com": 3,
}


def certificate_type(key_type: str) -> str:
    """``ssh-ed25519`` → ``ssh-ed25519-cert-v01@openssh.com``; ``sk-*@openssh.com`` keeps one domain."""
    return key_type.removesuffix("@openssh.com") + CERT_SUFFIX


_PLAIN_TO_CERTIFICATE = {plain: certificate_type(plain) for plain in _KEY_FIELDS}
_PLAIN_TYPES = {name: plain for plain, name in _PLAIN_TO_CERTIFICATE.items()}
#: plain key type → how long each of its fields may be, and the beginning of such a key's blob
_KEY_LIMITS = {plain: (4096,) * count for plain, count in _KEY_FIELDS.items()}
_KEY_PREFIXES = {plain: string(plain.encode()) for plain in _KEY_FIELDS}
_SERIAL_AND_TYPE, _LIFE = struct.Struct(">QI"), struct.Struct(">QQ")


def plain_type(cert_type: str) -> str:
    """The key type inside a certificate type; PeerError for anything else."""
    try:
        return _PLAIN_TYPES[cert_type]
    except KeyError:
        raise PeerError("not a certificate of a supported kind", detail=f"key type {cert_type!r:.80}") from None


def is_certificate_type(name: str) -> bool:
    return name in _PLAIN_TYPES


@dataclass(frozen=True)
class Certificate:
    """What a certificate blob says. ``public_key`` and ``ca_key`` are plain SSH key blobs; times are Unix seconds."""

    key_type: str
    nonce: bytes
    public_key: bytes
    serial: int
    cert_type: int
    key_id: str
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    critical_options: Mapping[str, bytes]
    extensions: Mapping[str, bytes]
    ca_key: bytes
    signature: bytes
    signed: bytes = field(repr=False)
    blob: bytes = field(repr=False)

    @classmethod
    def decode(cls, blob: bytes) -> Certificate:
        """Decode one certificate of any supported key type. PeerError when it is malformed in any way."""
        size = len(blob)
        if size > MAX_BLOB:
            raise PeerError(f"certificate of {size} bytes, at most {MAX_BLOB} are allowed")
        # Every login decodes one that was never seen: in a pass of three runs of strings, without a reader's calls.
        (kind, nonce), key_begin = _run(blob, 0, (64, 256))
        plain = plain_type(_decoded(kind, "certificate"))
        _, at = _run(blob, key_begin, _KEY_LIMITS[plain])
        public_key = _KEY_PREFIXES[plain] + blob[key_begin:at]
        serial, cert_type = _numbers(_SERIAL_AND_TYPE, blob, at)
        (key_id, names), at = _run(blob, at + 12, (1024, MAX_BLOB))
        valid_after, valid_before = _numbers(_LIFE, blob, at)
        # The fourth is reserved.
        (critical, extensions, _, ca_key), end = _run(blob, at + 16, (MAX_BLOB, MAX_BLOB, 1024, 4096))
        (signature,), at = _run(blob, end, (4096,))
        if at != size:
            raise PeerError(f"malformed certificate: {size - at} bytes too many")
        made = object.__new__(cls)
        # As a frozen dataclass's own initialiser would, which pays for each field.
        made.__dict__.update(
            key_type=_PLAIN_TO_CERTIFICATE[plain],
            nonce=nonce,
            public_key=public_key,
            serial=serial,
            cert_type=cert_type,
            key_id=_decoded(key_id, "certificate"),
            principals=_principals(names),
            valid_after=valid_after,
            valid_before=valid_before,
            critical_options=_options(critical, "critical options") if critical else {},
            extensions=_options(extensions, "extensions") if extensions else {},
            ca_key=ca_key,
            signature=signature,
            signed=blob[:end],
            blob=blob,
        )
        return made

    def text_option(self, name: str) -> str | None:
        """The critical option's text; None when absent."""
        return _text(self.critical_options, name)

    def text_extension(self, name: str) -> str | None:
        """The extension's text; None when absent."""
        return _text(self.extensions, name)

    def json_extension(self, name: str) -> object:
        """The extension's JSON value; None when absent; PeerError when it is not JSON."""
        text = self.text_extension(name)
        if text is None:
            return None
        try:
            value, end = _JSON.raw_decode(text)
        except (ValueError, RecursionError):
            value, end = None, -1
        if end != len(text):
            raise PeerError(f"malformed certificate: extension {name} is not JSON")
        found: object = value
        return found


def _run(blob: bytes, at: int, limits: tuple[int, ...]) -> tuple[list[bytes], int]:
    """The strings from ``at`` on, each of at most so many bytes, and where they end. PeerError."""
    found, size = [], len(blob)
    for limit in limits:
        begin = at + 4
        length = int.from_bytes(blob[at:begin], "big")
        at = begin + length
        if at > size:
            raise PeerError("malformed certificate: it ends too early")
        if length > limit:
            raise PeerError(f"malformed certificate: a string of {length} bytes, at most {limit} are allowed")
        found.append(blob[begin:at])
    return found, at


def _numbers(form: struct.Struct, blob: bytes, at: int) -> tuple[int, int]:
    try:
        one, other = form.unpack_from(blob, at)
    except struct.error:
        raise PeerError("malformed certificate: it ends too early") from None
    return one, other


def _text(options: Mapping[str, bytes], name: str) -> str | None:
    data = options.get(name)
    if data is None:
        return None
    what = f"certificate option {name}"
    if len(data) < 4 or int.from_bytes(data[:4], "big") != len(data) - 4:
        raise PeerError(f"malformed {what}: it is not one string")
    return _decoded(data[4:], what)


def _decoded(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise PeerError(f"malformed {what}: text that is not UTF-8") from None


def _principals(data: bytes) -> tuple[str, ...]:
    what = "certificate principals"
    names = strings(data, what, 256)
    if len(names) > MAX_PRINCIPALS:
        raise PeerError(f"certificate with more than {MAX_PRINCIPALS} principals")
    return tuple([_decoded(name, what) for name in names])


def _options(data: bytes, what: str) -> dict[str, bytes]:
    what = f"certificate {what}"
    pairs = strings(data, what)
    names = pairs[::2]
    options = {
        _NAMES.get(name) or _option_name(name, what): value for name, value in zip(names, pairs[1::2], strict=False)
    }
    if len(pairs) % 2:
        raise PeerError(f"malformed {what}: it ends too early")
    # PROTOCOL.certkeys: options are lexically ordered and no name appears twice. An order that a signer did not
    # keep is no danger; a name that appears twice is (two readers could obey different ones).
    if len(options) != len(names) or len(options) > MAX_OPTIONS:
        raise PeerError(f"malformed {what}: a name is repeated, or they are too many")
    return options


def _option_name(data: bytes, what: str) -> str:
    if len(data) > 256:
        raise PeerError(f"malformed {what}: a name of {len(data)} bytes")
    return _decoded(data, what)


def encode_options(options: Mapping[str, str | None]) -> bytes:
    """Critical options or extensions: a flag (None) has empty data, a text is wrapped in a string of its own."""
    encoded = b""
    for name in sorted(options):
        value = options[name]
        encoded += string(name.encode()) + string(b"" if value is None else string(value.encode()))
    return encoded


def to_be_signed(
    *,
    public_key: bytes,
    nonce: bytes,
    serial: int,
    cert_type: int,
    key_id: str,
    principals: Sequence[str],
    valid_after: int,
    valid_before: int,
    critical_options: Mapping[str, str | None],
    extensions: Mapping[str, str | None],
    ca_key: bytes,
) -> bytes:
    """The part of a certificate that its CA signs; append ``string(signature)`` and it is the blob."""
    reader = Reader(public_key, "public key")
    plain = reader.text(64)
    if plain not in _KEY_FIELDS:
        raise PeerError(f"keys of type {plain!r:.60} cannot be certified")
    fields = [reader.string(4096) for _ in range(_KEY_FIELDS[plain])]
    reader.end()
    return b"".join(
        (
            string(certificate_type(plain).encode()),
            string(nonce),
            *(string(value) for value in fields),
            uint64(serial),
            uint32(cert_type),
            string(key_id.encode()),
            string(b"".join(string(name.encode()) for name in principals)),
            uint64(valid_after),
            uint64(valid_before),
            string(encode_options(critical_options)),
            string(encode_options(extensions)),
            string(b""),
            string(ca_key),
        )
    )


def parse_public_line(line: str) -> bytes:
    """One line of an authorized_keys, .pub or -cert.pub file (``type base64 [comment]``) → its blob."""
    if len(line) > 2 * MAX_BLOB:
        raise PeerError("public key line is too long")
    parts = line.strip().split(None, 2)
    if len(parts) < 2:
        raise PeerError("not an SSH public key", hint='expected a line like "ssh-ed25519 AAAA..."')
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except (binascii.Error, ValueError):
        raise PeerError("not an SSH public key: its base64 is damaged") from None
    if Reader(blob, "public key").text(64) != parts[0]:
        raise PeerError("not an SSH public key: it says two different key types")
    return blob


def key_type_of(blob: bytes) -> str:
    """The type name that a key or certificate blob starts with."""
    return Reader(blob, "public key").text(64)


def public_line(blob: bytes, comment: str = "") -> str:
    """A key or certificate blob as ``type base64 [comment]``, without a newline."""
    line = f"{key_type_of(blob)} {base64.b64encode(blob).decode('ascii')}"
    return f"{line} {comment}" if comment else line


#: A certificate's line looks like a key's.
certificate_line = public_line


def fingerprint(blob: bytes) -> str:
    """``SHA256:`` and unpadded base64, as ``ssh-keygen -l`` prints it. For a certificate, give its plain key."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")
