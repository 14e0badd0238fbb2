"""The certificate for browsers: for the right names, kept, made anew, and the operator's read again when it changes."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.proxy.conftest import close, run
from tinyport.core.errors import OperatorError
from tinyport.host.logging_line import Log
from tinyport.host.tls import certificate_fingerprint
from tinyport.proxy import web_certificate
from tinyport.proxy.settings import ProxySettings
from tinyport.proxy.web_certificate import WebCertificate


def test_the_self_made_certificate_is_kept_and_remade(tmp_path: Path) -> None:
    log = Log("test", "error")

    def made(*addresses: str) -> bytes:
        (tmp_path / "proxy").mkdir(exist_ok=True)
        WebCertificate(ProxySettings(data_dir=tmp_path, public_addr=addresses), log)
        return (tmp_path / "proxy" / "web.pem").read_bytes()

    first = made("port.example.com:443", "[2001:db8::1]:443")
    assert (tmp_path / "proxy" / "web.pem").stat().st_mode & 0o777 == 0o600
    assert made("port.example.com:443") == first
    second = made("other.example.com:443")
    assert second != first
    certificate = x509.load_pem_x509_certificate(first)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["port.example.com", "localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["2001:db8::1"]
    (tmp_path / "proxy" / "web.pem").write_bytes(b"damaged")
    assert made("other.example.com:443") != b"damaged"


def test_an_operator_s_files_that_cannot_be_used(tmp_path: Path) -> None:
    settings = ProxySettings(data_dir=tmp_path, web_cert=tmp_path / "no.pem", web_key=tmp_path / "no.key")
    with pytest.raises(OperatorError, match=r"no\.pem"):
        WebCertificate(settings, Log("test", "error"))
    with pytest.raises(OperatorError, match="public_addr"):
        WebCertificate(ProxySettings(data_dir=tmp_path, public_addr=("a:b:c/",)), Log("test", "error"))


def pair(folder: Path, host: str) -> bytes:
    """A certificate and its key, as an operator's program puts them there. What is shown to browsers of it (DER)."""
    made = web_certificate._self_made([host])
    (folder / "key.pem").write_text(made[made.index("-----BEGIN PRIVATE KEY") :])
    certificate = made[: made.index("-----BEGIN PRIVATE KEY")]
    (folder / "cert.pem").write_text(certificate)
    return ssl.PEM_cert_to_DER_cert(certificate)


async def shown(context: ssl.SSLContext) -> bytes:
    """The certificate that a browser gets."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anything.check_hostname = False
    anything.verify_mode = ssl.CERT_NONE
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=anything)
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        await close(writer)
    assert isinstance(found, bytes)
    return found


def test_the_operator_s_is_read_again_when_it_changes(tmp_path: Path) -> None:
    first = pair(tmp_path, "one.example.com")
    settings = ProxySettings(data_dir=tmp_path, web_cert=tmp_path / "cert.pem", web_key=tmp_path / "key.pem")
    certificate = WebCertificate(settings, Log("test", "error"))
    assert certificate.fingerprint.replace(":", "").lower() == hashlib.sha256(first).hexdigest()

    async def main() -> None:
        assert await shown(certificate.context) == first
        certificate.look()
        # Half of a renewal: the key is still the old one's.
        shutil.copy(tmp_path / "key.pem", tmp_path / "old.pem")
        second = pair(tmp_path, "two.example.com")
        shutil.copy(tmp_path / "key.pem", tmp_path / "new.pem")
        shutil.move(tmp_path / "old.pem", tmp_path / "key.pem")
        certificate.look()
        assert await shown(certificate.context) == first
        (tmp_path / "cert.pem").rename(tmp_path / "away.pem")
        certificate.look()
        assert await shown(certificate.context) == first
        (tmp_path / "away.pem").rename(tmp_path / "cert.pem")
        shutil.move(tmp_path / "new.pem", tmp_path / "key.pem")
        certificate.look()
        assert await shown(certificate.context) == second
        assert certificate.fingerprint.replace(":", "").lower() == hashlib.sha256(second).hexdigest()

    run(main())


def test_the_self_made_one_is_made_anew_before_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proxy").mkdir()
    certificate = WebCertificate(ProxySettings(data_dir=tmp_path, public_addr=("a.example.com",)), Log("test", "error"))
    first = certificate.fingerprint
    certificate.look()
    assert certificate.fingerprint == first
    monkeypatch.setattr(web_certificate, "REMAKE_BEFORE", 2 * web_certificate.SELF_MADE_LIFE)
    certificate.look()
    assert certificate.fingerprint != first


def test_a_full_disk_ends_no_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is time for another self-made one, and it cannot be written: the one there is goes on, also at a start."""
    (tmp_path / "proxy").mkdir()
    settings = ProxySettings(data_dir=tmp_path, public_addr=("a.example.com",))
    certificate = WebCertificate(settings, Log("test", "error"))
    first = certificate.fingerprint

    def full(path: object, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(web_certificate, "REMAKE_BEFORE", 2 * web_certificate.SELF_MADE_LIFE)
    with monkeypatch.context() as patched:
        patched.setattr(web_certificate, "write_private", full)
        certificate.look()
        assert certificate.fingerprint == first
        assert WebCertificate(settings, Log("test", "error")).fingerprint == first
        # Nor does a reload that takes the operator's away, where there is none of ours.
        pair(tmp_path, "one.example.com")
        theirs = ProxySettings(data_dir=tmp_path, web_cert=tmp_path / "cert.pem", web_key=tmp_path / "key.pem")
        certificate.use(theirs)
        (tmp_path / "proxy" / "web.pem").unlink()
        shown_before = certificate.fingerprint
        with pytest.raises(OperatorError, match="no space left"):
            certificate.use(settings)
        assert certificate.fingerprint == shown_before
    certificate.use(settings)
    assert certificate.fingerprint not in (first, shown_before)


def test_a_key_that_comes_while_its_certificate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at a half-renewed pair and the note of what it was, the other half comes."""
    pair(tmp_path, "one.example.com")
    settings = ProxySettings(data_dir=tmp_path, web_cert=tmp_path / "cert.pem", web_key=tmp_path / "key.pem")
    certificate = WebCertificate(settings, Log("test", "error"))
    first = certificate.fingerprint
    old_key = (tmp_path / "key.pem").read_bytes()
    pair(tmp_path, "two.example.com")
    new_key = (tmp_path / "key.pem").read_bytes()
    (tmp_path / "key.pem").write_bytes(old_key)
    load = certificate._load

    def late() -> None:
        try:
            load()
        finally:
            (tmp_path / "key.pem").write_bytes(new_key)

    with monkeypatch.context() as patched:
        patched.setattr(certificate, "_load", late)
        certificate.look()
    assert certificate.fingerprint == first
    certificate.look()
    assert certificate.fingerprint != first


def test_a_fingerprint_of_nothing() -> None:
    for text in ("", "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"):
        with pytest.raises(ValueError, match="no certificate"):
            certificate_fingerprint(text)


def test_a_key_with_a_passphrase_is_refused_and_not_asked_for(tmp_path: Path) -> None:
    pair(tmp_path, "one.example.com")
    key = serialization.load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    pkcs8 = serialization.PrivateFormat.PKCS8
    (tmp_path / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, locked))
    settings = ProxySettings(data_dir=tmp_path, web_cert=tmp_path / "cert.pem", web_key=tmp_path / "key.pem")
    with pytest.raises(OperatorError, match="cannot be used"):
        WebCertificate(settings, Log("test", "error"))
