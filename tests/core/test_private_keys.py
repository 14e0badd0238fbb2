"""OpenSSH's private key files: read by a reader of ours, judged by ssh-keygen's and by the library's writers."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from tests.conftest import need_program
from tinyport.core.errors import OperatorError
from tinyport.core.signatures import Ed25519Key, verify

BEGIN, END = b"-----BEGIN OPENSSH PRIVATE KEY-----", b"-----END OPENSSH PRIVATE KEY-----"


def body(pem: bytes) -> bytearray:
    return bytearray(base64.b64decode(pem.replace(BEGIN, b"").replace(END, b"")))


def file(data: bytes) -> bytes:
    return BEGIN + b"\n" + base64.b64encode(data) + b"\n" + END + b"\n"


def test_what_we_write_is_read_again() -> None:
    key = Ed25519Key.generate()
    again = Ed25519Key.from_openssh(key.to_openssh())
    assert again.public_blob == key.public_blob
    verify(key.public_blob, b"data", again.sign(b"data"))
    assert Ed25519Key.from_openssh(file(bytes(body(key.to_openssh())))).public_blob == key.public_blob


def test_what_ssh_keygen_writes_is_read(tmp_path: Path) -> None:
    import subprocess

    need_program("ssh-keygen")
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "somebody@a machine", "-f", str(tmp_path / "key")],
        check=True,
    )
    key = Ed25519Key.from_openssh((tmp_path / "key").read_bytes())
    assert base64.b64encode(key.public_blob).decode() == (tmp_path / "key.pub").read_text().split()[1]


def test_other_kinds_of_keys_are_named() -> None:
    for other in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())):
        pem = other.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        with pytest.raises(OperatorError, match="not an Ed25519 key"):
            Ed25519Key.from_openssh(pem)


def test_a_passphrase_is_not_guessed() -> None:
    # bcrypt, which this takes, comes with paramiko.
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, BestAvailableEncryption(b"secret"))
    with pytest.raises(OperatorError, match="damaged or has a passphrase"):
        Ed25519Key.from_openssh(pem)


@pytest.mark.parametrize("pem", [b"", b"nonsense", BEGIN, BEGIN + b"\n" + END, file(b""), file(b"openssh-key-v1\0")])
def test_what_is_no_key(pem: bytes) -> None:
    with pytest.raises(OperatorError, match="cannot be read"):
        Ed25519Key.from_openssh(pem)


def test_a_damaged_byte_is_noticed_or_changes_nothing() -> None:
    key = Ed25519Key.generate()
    whole = body(key.to_openssh())
    for place in range(len(whole)):
        bent = whole.copy()
        bent[place] ^= 0x55
        try:
            found = Ed25519Key.from_openssh(file(bytes(bent)))
        except OperatorError:
            continue
        assert found.public_blob == key.public_blob
    for length in range(len(whole)):
        with pytest.raises(OperatorError):
            Ed25519Key.from_openssh(file(bytes(whole[:length])))
