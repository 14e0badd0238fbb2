"""The TLS identity that a node had before the one of today, kept until a tunnel has stood with that one.

Two files beside identity.json: ``identity.before.pem`` holds certificate and key, which only OpenSSL reads,
``identity.before.json`` what else is needed. The second is written last and removed first: without it there is none.
Light: the monitor loads it. docs/decisions/0020-a-certificate-on-probation.md. Of a node that keeps its keys in memory
the second alone is a file: the monitor has the other one.
"""

from __future__ import annotations

import json
import os

from tinyport.core.errors import TinyportError
from tinyport.host.files import read_limited, write_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PUBLIC, SECRET = "identity.before.json", "identity.before.pem"
MAX_FILE = 64 * 1024
# docs/protocol/policy.md: the epoch of the last document of a policy key that was given up for stolen.
GIVEN_UP = 2**63 - 1


def keep(folder: str | Path, held: Mapping[str, object], now: float, *, secret: bool = True) -> None:
    """``held`` (as identity.json has it) is about to be replaced. One that is kept already stays, as nothing has stood
    since; one whose certificate has ended by ``now`` (Unix seconds of the cluster) is of no use. Without ``secret`` no
    key is written. OSError."""
    kept = read(folder)
    if kept is not None and ends(kept) > now:
        return
    drop(folder)
    if float(str(held["valid_before"])) <= now:
        return
    pem = f"{str(held['tls_certificate']).strip()}\n{str(held['tls_key']).strip()}\n"
    public = {name: held[name] for name in ("tls_cas", "valid_before", "generation")}
    if secret:
        write_private(f"{folder}/{SECRET}", pem.encode())
    write_private(f"{folder}/{PUBLIC}", json.dumps(public).encode())


def read(folder: str | Path) -> dict[str, object] | None:
    """``{"tls_cas": [PEM], "valid_before": Unix seconds, "generation"}``; None when there is none or it is damaged."""
    try:
        found = json.loads(read_limited(f"{folder}/{PUBLIC}", MAX_FILE))
    except (OSError, ValueError, RecursionError, TinyportError):
        return None
    cas = found.get("tls_cas") if isinstance(found, dict) else None
    good = isinstance(cas, list) and bool(cas) and all(isinstance(pem, str) for pem in cas)
    number = found.get("valid_before") if good else None
    return found if isinstance(number, (int, float)) and not isinstance(number, bool) else None


def counts(before: Mapping[str, object], now: float, epoch: int) -> bool:
    """May it still be used? ``epoch``: of the policy that the node holds; after a compromise nothing of before may."""
    return now < ends(before) and epoch < GIVEN_UP


def ends(before: Mapping[str, object]) -> float:
    """When it is over, whatever became of the one of today: with its certificate (Unix seconds)."""
    return float(str(before["valid_before"]))


def open_secret(folder: str) -> int:
    """A descriptor of certificate and key. OSError."""
    return os.open(f"{folder}/{SECRET}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def drop(folder: str | Path) -> None:
    """There is none any more. OSError, but for what is not there."""
    for name in (PUBLIC, SECRET):
        try:
            os.unlink(f"{folder}/{name}")
        except FileNotFoundError:
            continue
