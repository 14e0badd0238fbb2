"""identity.json: what a node or proxy is, in one file, so that it changes as a whole or not at all.

It holds the only secrets a node keeps, its two private keys, and is readable by the service's owner alone.
"""

from __future__ import annotations

import json

from tinyport.core.errors import OperatorError
from tinyport.host.files import read_limited, write_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

VERSION = 1
MAX_FILE = 256 * 1024

#: the id of the token that it came by, or of a later one that has been looked at; absent in files of before
CAME_BY = "came_by"
#: key → type of its value; every key must be there
FIELDS: dict[str, type | tuple[type, ...]] = {
    "version": int,
    "kind": str,
    "cluster": str,
    "uuid": str,
    "name": str,
    "generation": int,
    "ssh_key": str,
    "ssh_certificate": str,
    "tls_key": str,
    "tls_certificate": str,
    "tls_cas": list,
    "policy_key": str,
    "server": str,
    "proxies": list,
    "ca_pins": list,
    "valid_after": (int, float),
    "valid_before": (int, float),
}


def load(path: str | Path) -> dict[str, object]:
    """Read an identity. FileNotFoundError when there is none; OperatorError when it is damaged or of a newer
    version.
    """
    try:
        found = json.loads(read_limited(path, MAX_FILE))
    except (ValueError, RecursionError):
        raise OperatorError(f"{path} is damaged", hint="move it away and join again with a new token") from None
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise OperatorError(f"{path} is not an identity of this version of tinyport")
    wrong = [name for name, kind in FIELDS.items() if not isinstance(found.get(name), kind)]
    if wrong:
        raise OperatorError(
            f"{path} is damaged: {', '.join(wrong)}", hint="move it away and join again with a new token"
        )
    return found


def save(path: str | Path, identity: dict[str, object]) -> None:
    """Write an identity, whole and 0600."""
    write_private(path, json.dumps(identity, indent=1, sort_keys=True).encode())


def load_for(path: str | Path, server: str) -> dict[str, object]:
    """Read an identity, and have it renew at ``server`` ("host:port"), which may have changed since it was written: a
    cluster that moved must not strand its machines at their next renewal.
    """
    identity = load(path)
    if identity["server"] != server:
        identity["server"] = server
        save(path, identity)
    return identity
