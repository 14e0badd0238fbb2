"""What monitor and link need of an identity, without the SSH host key ever entering them. Light: the monitor loads it.

Two memory files: *public* holds JSON, *secret* the TLS key and certificate in PEM, which only OpenSSL reads. The
launcher or an enrolling process fills them. The whole identity, with the host key, is in a memory file of its own,
which the monitor holds without reading it: for the keeper and for who renews.
"""

from __future__ import annotations

import json
import os

from tinyport.core.errors import OperatorError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PUBLIC = (
    "uuid",
    "name",
    "cluster",
    "generation",
    "server",
    "proxies",
    "tls_cas",
    "valid_after",
    "valid_before",
)
MAX_VIEW = 256 * 1024
#: under this name the service manager keeps the memory file with the identity while the node is restarted
STORED = "tinyport-identity"


def create() -> tuple[int, int]:
    """Two empty memory files: (public, secret)."""
    return (
        os.memfd_create("tinyport-public", os.MFD_CLOEXEC),
        os.memfd_create("tinyport-secret", os.MFD_CLOEXEC),
    )


def fill(view: tuple[int, int], identity: Mapping[str, object]) -> None:
    """Write an identity (as identity.json has it) into the memory files."""
    public = json.dumps({name: identity[name] for name in PUBLIC}).encode()
    secret = f"{str(identity['tls_certificate']).strip()}\n{str(identity['tls_key']).strip()}\n".encode()
    for descriptor, data in zip(view, (public, secret), strict=True):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)


def read_public(descriptor: int) -> dict[str, object]:
    """The public half. OperatorError when nobody filled it."""
    try:
        found = json.loads(os.pread(descriptor, MAX_VIEW, 0))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(name in found for name in PUBLIC):
        raise OperatorError("the identity could not be handed over")
    return found
