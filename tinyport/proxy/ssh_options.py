"""What the SSH gateway offers: algorithms, limits, its host key."""

from __future__ import annotations

from collections.abc import Callable

import asyncssh

from tinyport.core.errors import OperatorError

LOGIN_GRACE = 30.0
# A client that vanished is noticed after some two minutes.
KEEPALIVE_INTERVAL = 30
KEEPALIVE_COUNT = 4
# asyncssh's own default; what a channel may hold for a node that is slow.
WINDOW = 2 * 1024 * 1024

# Nothing weak is on offer. curve25519 stands first: dropbear guesses the server's first, and asyncssh does
# not forgive a wrong guess; the client's order decides among the others, so nobody loses the post-quantum
# exchange.
KEX = (
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "mlkem768x25519-sha256",
    "sntrup761x25519-sha512",
    "sntrup761x25519-sha512@openssh.com",
    "ecdh-sha2-nistp256",
    "diffie-hellman-group16-sha512",
)
CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes128-ctr",
)
MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512")
SIGNATURES = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
)


def _on_offer(wanted: tuple[str, ...], available: list[bytes]) -> list[str]:
    """Of what we want, what this asyncssh has (mlkem needs a library, sntrup another)."""
    return [name for name in wanted if name.encode() in available]


def make_options(
    ssh_key: str, ssh_certificate: str, server_factory: Callable[[], asyncssh.SSHServer]
) -> asyncssh.SSHServerConnectionOptions:
    """The options that every connection shares: made once for each identity, they take milliseconds."""
    from asyncssh.encryption import get_encryption_algs
    from asyncssh.kex import get_kex_algs
    from asyncssh.mac import get_mac_algs
    from asyncssh.public_key import get_public_key_algs

    try:
        key = asyncssh.import_private_key(ssh_key)
        certificate = asyncssh.import_certificate(ssh_certificate)
    except asyncssh.KeyImportError as error:
        raise OperatorError("the proxy's SSH identity cannot be read", detail=str(error)) from None
    return asyncssh.SSHServerConnectionOptions(
        server_host_keys=[(key, certificate)],
        server_factory=server_factory,
        config=[],
        kex_algs=_on_offer(KEX, get_kex_algs()),
        encryption_algs=_on_offer(CIPHERS, get_encryption_algs()),
        mac_algs=_on_offer(MACS, get_mac_algs()),
        signature_algs=_on_offer(SIGNATURES, get_public_key_algs()),
        compression_algs=["none"],
        server_version="tinyport",
        login_timeout=LOGIN_GRACE,
        keepalive_interval=KEEPALIVE_INTERVAL,
        keepalive_count_max=KEEPALIVE_COUNT,
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_host=None,
        agent_forwarding=False,
        x11_forwarding=False,
        allow_scp=False,
        line_editor=False,
        encoding=None,
        window=WINDOW,
        authorized_client_keys=None,
    )
