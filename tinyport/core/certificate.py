"""OpenSSH certificates (PROTOCOL.certkeys): decoding, encoding, and the text forms of keys.

Nothing here trusts anything: ``Certificate.decode`` says what a blob claims, ``core.access`` judges it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
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


_PLAIN_TYPES = {certificate_type(plain): plain for plain in _KEY_FIELDS}


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
        if len(blob) > MAX_BLOB:
            raise PeerError(f"certificate of {len(blob)} bytes, at most {MAX_BLOB} are allowed")
        reader = Reader(blob, "certificate")
        key_type = reader.text(64)
        plain = plain_type(key_type)
        nonce = reader.string(256)
        fields = b"".join(string(reader.string(4096)) for _ in range(_KEY_FIELDS[plain]))
        serial = reader.uint64()
        cert_type = reader.uint32()
        key_id = reader.text(1024)
        principals = _principals(reader.string(MAX_BLOB))
        valid_after = reader.uint64()
        valid_before = reader.uint64()
        critical = _options(reader.string(MAX_BLOB), "critical options")
        extensions = _options(reader.string(MAX_BLOB), "extensions")
        reader.string(1024)  # reserved
        ca_key = reader.string(4096)
        signed = blob[: reader.position]
        signature = reader.string(4096)
        reader.end()
        return cls(
            key_type=key_type,
            nonce=nonce,
            public_key=string(plain.encode()) + fields,
            serial=serial,
            cert_type=cert_type,
            key_id=key_id,
            principals=principals,
            valid_after=valid_after,
            valid_before=valid_before,
            critical_options=critical,
            extensions=extensions,
            ca_key=ca_key,
            signature=signature,
            signed=signed,
            blob=blob,
        )

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
            value: object = _JSON.decode(text)
        except (ValueError, RecursionError):
            raise PeerError(f"malformed certificate: extension {name} is not JSON") from None
        return value


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
    return tuple(_decoded(name, what) for name in names)


def _options(data: bytes, what: str) -> dict[str, bytes]:
    what = f"certificate {what}"
    pairs = strings(data, what)
    options: dict[str, bytes] = {}
    for at in range(0, len(pairs) - 1, 2):
        name = _decoded(pairs[at], what)
        # PROTOCOL.certkeys: options are lexically ordered and no name appears twice. An order that a signer did not
        # keep is no danger; a name that appears twice is (two readers could obey different ones).
        if name in options or len(options) == MAX_OPTIONS or len(pairs[at]) > 256:
            raise PeerError(f"malformed {what}: {name!r:.60} is repeated or too long, or they are too many")
        options[name] = pairs[at + 1]
    if len(pairs) % 2:
        raise PeerError(f"malformed {what}: it ends too early")
    return options


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
