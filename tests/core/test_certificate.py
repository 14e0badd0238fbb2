"""Certificates: our encoder and decoder against ssh-keygen's, and against bytes that nobody sane would send."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core import certificate as c
from tinyport.core.errors import OperatorError, PeerError
from tinyport.core.issue import issue_host_certificate, issue_user_certificate
from tinyport.core.signatures import Ed25519Key, verify
from tinyport.core.sshwire import string

CA = Ed25519Key.generate()
USER = Ed25519Key.generate()
UUID = "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b"


def user_certificate(**changes: object) -> bytes:
    values: dict[str, object] = {
        "public_key": USER.public_blob,
        "serial": 7,
        "nonce": bytes(32),
        "cluster": "farm.example",
        "user": "alice",
        "logins": ["pi", "root"],
        "roles": ["access"],
        "traits": {"logins": ["pi", "root"]},
        "permits": {"pty", "port_forwarding"},
        "now": 1_700_000_000,
        "ttl": 3600,
    }
    values.update(changes)
    return issue_user_certificate(CA, **values)  # type: ignore[arg-type]


def test_what_is_issued_is_what_is_read() -> None:
    cert = c.Certificate.decode(user_certificate())
    assert (cert.cert_type, cert.serial, cert.key_id) == (c.USER, 7, "alice")
    assert cert.principals == ("pi", "root")
    assert cert.public_key == USER.public_blob
    assert cert.ca_key == CA.public_blob
    assert (cert.valid_after, cert.valid_before) == (1_700_000_000 - 60, 1_700_003_600)
    assert cert.text_extension(c.EXT_USER) == "alice"
    assert cert.json_extension(c.EXT_TRAITS) == {"logins": ["pi", "root"]}
    assert "permit-pty" in cert.extensions
    assert "permit-X11-forwarding" not in cert.extensions
    verify(cert.ca_key, cert.signed, cert.signature)


def test_ssh_keygen_reads_our_host_certificate(tmp_path: Path) -> None:
    blob = issue_host_certificate(
        CA,
        public_key=USER.public_blob,
        serial=3,
        nonce=bytes(32),
        cluster="farm.example",
        uuid=UUID,
        name="greenhouse",
        role="node",
        generation=1,
        now=1_700_000_000,
        ttl=3600,
    )
    path = tmp_path / "host-cert.pub"
    path.write_text(c.certificate_line(blob, "host") + "\n")
    shown = subprocess.run(["ssh-keygen", "-L", "-f", str(path)], capture_output=True, text=True, check=True).stdout
    assert "ssh-ed25519-cert-v01@openssh.com host certificate" in shown
    for name in ("greenhouse", "greenhouse.farm.example", UUID, f"{UUID}.farm.example"):
        assert f"                {name}\n" in shown
    assert "role@tinyport.dev" in shown


@pytest.mark.parametrize(
    ("key_type", "bits"), [("ed25519", None), ("rsa", "2048"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521")]
)
def test_we_read_and_verify_ssh_keygens_certificates(tmp_path: Path, key_type: str, bits: str | None) -> None:
    def keygen(*words: str) -> None:
        subprocess.run(["ssh-keygen", "-q", *words], check=True, cwd=tmp_path, stdin=subprocess.DEVNULL)

    size = ["-b", bits] if bits else []
    keygen("-t", key_type, *size, "-N", "", "-f", "ca")
    keygen("-t", key_type, *size, "-N", "", "-f", "user")
    keygen("-s", "ca", "-I", "id", "-n", "pi", "-O", "force-command=date", "-V", "+1h", "user.pub")
    cert = c.Certificate.decode(c.parse_public_line((tmp_path / "user-cert.pub").read_text()))
    assert cert.text_option("force-command") == "date"
    assert c.public_line(cert.public_key) == (tmp_path / "user.pub").read_text().rsplit(" ", 1)[0]
    verify(cert.ca_key, cert.signed, cert.signature)
    with pytest.raises(PeerError):
        verify(cert.ca_key, cert.signed + b"x", cert.signature)


def test_ssh_keygen_agrees_on_the_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(c.public_line(USER.public_blob) + "\n")
    command = ["ssh-keygen", "-l", "-f", str(tmp_path / "key.pub")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.split()[1] == c.fingerprint(USER.public_blob)


def test_nobody_gets_a_certificate_without_principals() -> None:
    with pytest.raises(OperatorError, match="no login"):
        user_certificate(logins=[])


def test_an_option_that_stands_twice_is_malformed() -> None:
    once = c.encode_options({"permit-pty": None})
    with pytest.raises(PeerError, match="repeat"):
        c._options(once + once, "extensions")


@given(st.data())
def test_a_damaged_certificate_is_a_peer_error_or_another_value(data: st.DataObject) -> None:
    blob = bytearray(user_certificate())
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(blob)))
    try:
        cert = c.Certificate.decode(bytes(blob[:cut]))
    except PeerError:
        return
    assert cert.signed + string(cert.signature) == cert.blob


@given(st.binary(max_size=300))
def test_random_bytes_are_a_peer_error(data: bytes) -> None:
    with pytest.raises(PeerError):
        c.Certificate.decode(data)


def test_oversized_blobs_are_refused_unread() -> None:
    with pytest.raises(PeerError, match="at most"):
        c.Certificate.decode(os.urandom(c.MAX_BLOB + 1))


@pytest.mark.parametrize(
    "line", ["", "ssh-ed25519", "ssh-ed25519 !!!", "ssh-rsa " + "AAAAC3NzaC1lZDI1NTE5", "x" * 200_000]
)
def test_bad_public_lines_are_refused(line: str) -> None:
    with pytest.raises(PeerError):
        c.parse_public_line(line)
