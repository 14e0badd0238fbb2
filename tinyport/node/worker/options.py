"""What the worker's SSH server offers. Built once: building takes milliseconds, and a thread that it may not have."""

from __future__ import annotations

from collections.abc import Callable

import asyncssh
from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs
from asyncssh.public_key import get_public_key_algs

from tinyport.core.ssh_algorithms import CIPHERS, KEX, MACS, SIGNATURES, on_offer
from tinyport.node.worker.packets import use_kept_ciphers

# With a question a minute, a client that vanished is noticed after some four; a phone may sleep for three.
UNANSWERED = 4
# What one session may hold in memory for a process that does not read; 10 MB/s over a 100 ms line.
WINDOW = 1024 * 1024


def make_options(
    server_factory: Callable[[], asyncssh.SSHServer], login_grace: float, client_alive: float
) -> asyncssh.SSHServerConnectionOptions:
    """Options for every connection of this process. The host key in them is a dummy, as asyncssh insists on one; the
    keeper has the only real one, and ``NodeConnection`` offers that. ``login_grace`` and ``client_alive``, in seconds:
    for signing in, and between questions to a silent client (0: none).
    """
    use_kept_ciphers()
    return asyncssh.SSHServerConnectionOptions(
        server_factory=server_factory,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        config=[],
        kex_algs=on_offer(KEX, get_kex_algs()),
        encryption_algs=on_offer(CIPHERS, get_encryption_algs()),
        mac_algs=on_offer(MACS, get_mac_algs()),
        signature_algs=on_offer(SIGNATURES, get_public_key_algs()),
        compression_algs=["none"],
        login_timeout=login_grace,
        keepalive_interval=client_alive,
        keepalive_count_max=UNANSWERED,
        authorized_client_keys=None,
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
    )
