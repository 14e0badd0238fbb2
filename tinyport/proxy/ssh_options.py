"""What the SSH gateway offers: algorithms, limits, its host key."""

from __future__ import annotations

from collections.abc import Callable

import asyncssh

from tinyport.core.errors import OperatorError
from tinyport.core.ssh_algorithms import CIPHERS, KEX, MACS, SIGNATURES, on_offer

LOGIN_GRACE = 30.0
# A client that vanished is noticed after some two minutes.
KEEPALIVE_INTERVAL = 30
KEEPALIVE_COUNT = 4
# asyncssh's own default; what a channel may hold for a node that is slow.
WINDOW = 2 * 1024 * 1024


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
        kex_algs=on_offer(KEX, get_kex_algs()),
        encryption_algs=on_offer(CIPHERS, get_encryption_algs()),
        mac_algs=on_offer(MACS, get_mac_algs()),
        signature_algs=on_offer(SIGNATURES, get_public_key_algs()),
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
