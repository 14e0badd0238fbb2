"""The SSH algorithms that our servers offer: one list, so that node and proxy are never of different strength."""

from __future__ import annotations

from collections.abc import Sequence

# curve25519 stands first: dropbear guesses the server's first, and asyncssh judges a wrong guess unlike RFC 4253
# section 7. The client's order decides among the others, so nobody loses the post-quantum exchanges.
KEX = (
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "mlkem768x25519-sha256",
    "sntrup761x25519-sha512",
    "sntrup761x25519-sha512@openssh.com",
    "diffie-hellman-group16-sha512",
)
CIPHERS = (
    "chacha20-poly1305@openssh.com",
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
#: these authenticate by themselves (PROTOCOL.chacha20poly1305, PROTOCOL section 1.6): no MAC is negotiated for them
AUTHENTICATED = frozenset(("chacha20-poly1305@openssh.com", "aes128-gcm@openssh.com", "aes256-gcm@openssh.com"))
# For the counter modes alone; encrypt-then-MAC only.
MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
#: what ``server-sig-algs`` names (RFC 8308): keys inside user certificates
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


def on_offer(wanted: Sequence[str], available: Sequence[bytes]) -> list[str]:
    """Of what we want, what this machine's library has (mlkem and sntrup need others, chacha20 a libcrypto)."""
    return [name for name in wanted if name.encode() in available]
