"""Who this proxy is: its identity file, the TLS contexts and keys made of it, joining and renewing."""

from __future__ import annotations

import asyncio
import hashlib
import random
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tinyport.core.certificate import parse_public_line
from tinyport.core.errors import OperatorError, TinyportError, Unavailable
from tinyport.core.names import format_address
from tinyport.host import identity_file
from tinyport.host.files import private_folder
from tinyport.host.logging_line import Log
from tinyport.host.tls import client_context, server_context
from tinyport.link import enrolment
from tinyport.proxy.authlink import auth_only
from tinyport.proxy.settings import ProxySettings

ALPN_AUTH = "tinyport-auth"
ALPN_TUNNEL = "tinyport-tunnel"
ALPN_DIAL = "tinyport-dial"
ALPN_SSH = "tinyport-ssh"
ALPN_CLUSTER = "tinyport-cluster"

#: ALPN → which client certificates its context asks for
_CLIENTS = {ALPN_TUNNEL: "required", ALPN_DIAL: "none", ALPN_SSH: "required", ALPN_CLUSTER: "none"}

# docs/protocol/certificate.md: renewed at two thirds of the certificate's life.
RENEW_AT = 2 / 3
_FIRST_RETRY, _LAST_RETRY = 0.5, 30.0
_RENEW_RETRY = 300.0
# The wall clock may be set; timers run by another one.
_LOOK_EVERY = 3600.0
# Between looks at whether auth still knows us, while it seems not to.
_DOUBT_RETRY = 10.0


class Credentials:
    """The identity as it is now.

    ``contexts`` holds one server context for each ALPN that ends here; replaced as a whole when the identity
    or the cluster's TLS CAs change, so new connections use the new ones.
    """

    def __init__(self, identity: dict[str, object]) -> None:
        self._identity = identity
        self._tls_cas: tuple[str, ...] = ()
        #: when to renew early (Unix seconds), and whether auth may have replaced the CA that vouches for us
        self._early: float | None = None
        self._early_before = 0.0
        self.doubted = False
        self._wake = asyncio.Event()
        self.contexts: dict[str, ssl.SSLContext] = {}
        #: SHA-256 of the TLS certificate (DER) that ``contexts`` show
        self.tls_digest = b""
        self._rebuild()

    def _text(self, name: str) -> str:
        return str(self._identity[name])

    @property
    def cluster(self) -> str:
        return self._text("cluster")

    @property
    def uuid(self) -> str:
        return self._text("uuid")

    @property
    def name(self) -> str:
        return self._text("name")

    @property
    def policy_key(self) -> bytes:
        """The SSH blob of the key that signs documents."""
        return parse_public_line(self._text("policy_key"))

    @property
    def ssh_key(self) -> str:
        return self._text("ssh_key")

    @property
    def ssh_certificate(self) -> str:
        return self._text("ssh_certificate")

    @property
    def ca_pins(self) -> list[str]:
        return [str(pin) for pin in _list(self._identity["ca_pins"])]

    def replace(self, identity: dict[str, object]) -> None:
        """The identity was renewed."""
        self._identity = identity
        if self._early_before <= self._valid_after:
            self._early = None
        self._rebuild()

    def trust(self, tls_cas: Sequence[str]) -> bool:
        """The policy names the cluster's TLS CAs; says whether they changed."""
        if not tls_cas or list(tls_cas) == self._cas():
            return False
        self._tls_cas = tuple(tls_cas)
        self._rebuild()
        return True

    def _cas(self) -> list[str]:
        # Until the first policy came, what the join brought.
        return list(self._tls_cas) or [str(pem) for pem in _list(self._identity["tls_cas"])]

    def _rebuild(self) -> None:
        leaf, end, _ = self._text("tls_certificate").partition("-----END CERTIFICATE-----")
        self.tls_digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(leaf.strip() + "\n" + end + "\n")).digest()
        self.contexts = {
            alpn: server_context(
                self._cas(),
                alpn=[alpn],
                cert_pem=self._text("tls_certificate"),
                key_pem=self._text("tls_key"),
                client=client,
            )
            for alpn, client in _CLIENTS.items()
        }

    def auth_context(self) -> ssl.SSLContext:
        """For connections to auth, and to nobody else."""
        context = client_context(
            self._cas(),
            # HTTP/1.1 beside it: auth's own listener may not know our word for it.
            alpn=[ALPN_AUTH, "http/1.1"],
            cert_pem=self._text("tls_certificate"),
            key_pem=self._text("tls_key"),
        )
        return auth_only(context, self.cluster)

    def user_context(self, certificate: str, key: str) -> ssl.SSLContext:
        """For connections to auth in the name of a web session's user (PEM texts)."""
        context = client_context(self._cas(), alpn=[ALPN_AUTH, "http/1.1"], cert_pem=certificate, key_pem=key)
        return auth_only(context, self.cluster)

    def renewal_due(self) -> float:
        """Unix time at which to renew."""
        before = float(self._text("valid_before"))
        due = self._valid_after + (before - self._valid_after) * RENEW_AT
        return due if self._early is None else min(due, self._early)

    def ended(self, now: float) -> bool:
        """Is the certificate over? Unix seconds."""
        return now >= float(self._text("valid_before"))

    @property
    def _valid_after(self) -> float:
        return float(self._text("valid_after"))

    def renew_early(self, before: float, within: float, now: float) -> None:
        """The policy says so of certificates from before ``before`` (Unix seconds)."""
        if before > max(self._valid_after, self._early_before):
            self._early_before = before
            self._early = now + random.uniform(0, within)  # noqa: S311 - spreads proxies, guards nothing
            self._wake.set()

    def doubt(self) -> None:
        """Auth does not take us for one of its own, or is not who we know: its CA may have been rotated."""
        self.doubted = True
        self._wake.set()

    async def due(self) -> None:
        """Wait until the identity is to be renewed, or is in doubt."""
        while not self.doubted and (left := self.renewal_due() - time.time()) > 0:
            self._wake.clear()
            # Not wait_for, which before Python 3.12 may swallow a cancellation.
            timer = asyncio.get_running_loop().call_later(min(left, _LOOK_EVERY), self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


async def obtain(settings: ProxySettings, log: Log) -> Credentials:
    """The identity of this proxy.

    The kept one, or a new one by joining, for which auth may still have to start.

    OperatorError when there is neither an identity nor a token; whatever joining raises, but Unavailable.
    """
    private_folder(settings.folder)
    path = settings.identity_path
    try:
        return Credentials(_checked(identity_file.load_for(path, format_address(*settings.auth_address)), path))
    except FileNotFoundError:
        log.info("no identity yet: joining", auth=format_address(*settings.auth_address))
    if not settings.token:
        raise OperatorError(
            "the proxy has no identity and no token to join with",
            hint='"tctl tokens add --type proxy" on the auth host makes one',
        )
    delay = _FIRST_RETRY
    while True:
        try:
            identity = await asyncio.to_thread(
                enrolment.join,
                settings.auth_address,
                settings.token,
                settings.ca_pins,
                settings.insecure_no_ca_pin,
                "proxy",
                settings.nodename,
                settings.addresses,
                path,
            )
            return Credentials(identity)
        except (Unavailable, OSError) as error:
            log.info("auth does not answer yet", reason=error, again_in=f"{delay:.1f}s")
        await asyncio.sleep(delay)
        delay = min(delay * 2, _LAST_RETRY)


def _checked(identity: dict[str, object], path: Path) -> dict[str, object]:
    if identity["kind"] != "proxy":
        raise OperatorError(f"{path} is the identity of a {identity['kind']}, not of a proxy")
    return identity


async def keep_renewed(credentials: Credentials, path: Path, on_renewed: Callable[[], None], log: Log) -> None:
    """Renew whenever two thirds of the certificate's life are over, when the policy says so, and when the CA that
    vouches for it was replaced while this proxy was away; for ever.

    Failures are logged and tried again.
    """
    while True:
        await credentials.due()
        try:
            renewed = await asyncio.to_thread(_renewed, path, credentials.renewal_due() <= time.time())
        except (TinyportError, OSError) as error:
            log.warning("the proxy's identity could not be renewed", reason=error)
            # Without a certificate that auth takes it is of no use to anybody. Auth may just be starting, too.
            pause = _DOUBT_RETRY if credentials.doubted or credentials.ended(time.time()) else _RENEW_RETRY
            await asyncio.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311
            continue
        finally:
            credentials.doubted = False
        if renewed is None:
            # It was auth that went away for a moment. It is not asked again at each of our own attempts.
            await asyncio.sleep(_DOUBT_RETRY)
            continue
        credentials.replace(renewed)
        log.info("identity renewed", valid_until=int(float(str(renewed["valid_before"]))))
        on_renewed()


def _renewed(path: Path, due: bool) -> dict[str, object] | None:
    return enrolment.renew_or_return(path) if due else enrolment.renew_if_stale(path)
