"""The certificate that browsers are shown: the operator's, read again when it changes, or one that we made."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path

from tinyport.core.errors import OperatorError, PeerError
from tinyport.core.names import parse_address
from tinyport.host.files import read_limited, write_private
from tinyport.host.logging_line import Log
from tinyport.host.tls import certificate_fingerprint
from tinyport.proxy.settings import ProxySettings

# RFC 5280 allows more; browsers refuse what they did not import by hand either way.
SELF_MADE_LIFE = datetime.timedelta(days=825)
REMAKE_BEFORE = datetime.timedelta(days=30)
#: a renewed certificate is shown so many seconds later, at most
LOOK_EVERY = 30.0
MAX_PEM = 256 * 1024


class WebCertificate:
    """``context``, for new connections, has the certificate as it is now; ``run`` keeps it so."""

    def __init__(self, settings: ProxySettings, log: Log) -> None:
        """OperatorError when the operator's files cannot be used."""
        self._log = log
        self._folder = settings.folder
        self._hosts = _hosts(settings.addresses)
        self._own = _own(settings)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        #: SHA-256 of the certificate, as browsers show it
        self.fingerprint = ""
        self._seen: list[tuple[int, int, int]] = []
        #: the trouble that was said last
        self._said = ""
        self._load()

    async def run(self) -> None:
        """Until cancelled: look whether it has changed, or is about to end."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self.look()

    def use(self, settings: ProxySettings) -> None:
        """The operator may have named other files. OperatorError when they cannot be used; all stays as it was then."""
        before, self._own = self._own, _own(settings)
        if self._own == before:
            self.look()
            return
        try:
            self._load()
        except OperatorError:
            self._own = before
            raise

    def look(self) -> None:
        """What cannot be used is said once, and the one before it stays."""
        if self._own is not None and self._stamp() == self._seen:
            return
        if self._own is None and _still_good(self._folder / "web.pem", self._hosts):
            return
        # As it was before: what comes while it is tried is looked at the next time.
        seen = self._stamp()
        try:
            self._load()
        except OperatorError as error:
            self._seen = seen
            said = f"{error.message} {seen}"
            if said != self._said:
                self._log.error(error.message, detail=error.detail or "-", hint=error.hint or "-")
            self._said = said

    def _load(self) -> None:
        seen = self._stamp()
        path, key = self._own or (self._self_made(), None)
        try:
            # Tried first: a pair of which half is new must not replace one that works.
            # Without a password here, OpenSSL would ask for one at the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, key, password="")
            self.context.load_cert_chain(path, key, password="")
            self.fingerprint = certificate_fingerprint(read_limited(path, MAX_PEM).decode("ascii", "replace"))
        except (OSError, ValueError, ssl.SSLError) as error:
            raise OperatorError(
                f"the certificate for browsers cannot be used: {path}, {key}",
                detail=str(error),
                hint="both are PEM files; the key belongs to the first certificate and has no passphrase",
            ) from None
        self._seen, self._said = seen, ""
        self._log.info("certificate for browsers", sha256=self.fingerprint, made="by us" if key is None else "by you")

    def _stamp(self) -> list[tuple[int, int, int]]:
        """Changes when a file of the operator's does."""
        found = []
        for path in self._own or ():
            try:
                status = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return found

    def _self_made(self) -> Path:
        path = self._folder / "web.pem"
        if _still_good(path, self._hosts):
            return path
        try:
            write_private(path, _self_made(self._hosts).encode())
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            if self.fingerprint or not path.exists():
                raise OperatorError(f"a certificate for browsers cannot be made: {reason}", detail=str(path)) from None
            # At a start: nodes and people with tsh need no such certificate, and most browsers take the one there is.
            self._log.error("the certificate for browsers cannot be made anew", file=path, reason=reason)
        else:
            self._log.info("made a certificate for browsers", hosts=",".join(self._hosts))
        return path


def _own(settings: ProxySettings) -> tuple[Path, Path] | None:
    """The operator's certificate and key, if there are."""
    if settings.web_cert is None or settings.web_key is None:
        return None
    return settings.web_cert, settings.web_key


def _hosts(addresses: Sequence[str]) -> list[str]:
    found = []
    for address in addresses:
        try:
            found.append(parse_address(address, 443)[0])
        except PeerError as error:
            raise OperatorError(f"public_addr: {error.message}", hint=error.hint) from None
    return list(dict.fromkeys([*found, "localhost"]))


def _still_good(path: Path, hosts: Sequence[str]) -> bool:
    """Is the certificate made earlier for these hosts, and good for a while yet?"""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(read_limited(path, 64 * 1024))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, OperatorError, x509.ExtensionNotFound):
        return False
    said = {str(name.value) for name in names}
    # The aware form is younger than the oldest library we run on, the naive one deprecated in the newest.
    ends = getattr(certificate, "not_valid_after_utc", None)
    if ends is None:
        ends = certificate.not_valid_after.replace(tzinfo=datetime.timezone.utc)
    return said.issuperset(hosts) and ends - datetime.datetime.now(datetime.timezone.utc) > REMAKE_BEFORE


def _self_made(hosts: Sequence[str]) -> str:
    """Certificate and key (PEM) for hosts and addresses. P-256, because browsers know no Ed25519."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    now = datetime.datetime.now(datetime.timezone.utc)
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + SELF_MADE_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return (certificate.public_bytes(Encoding.PEM) + private).decode("ascii")
