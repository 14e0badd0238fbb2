"""What a node says of itself before it is one: that it waits to be let into its cluster, and why.

A file beside the place where a running node answers, for ``tinyport status``. Light enough for the launcher.
"""

from __future__ import annotations

import json
import os
import time

from tinyport.core.errors import OperatorError
from tinyport.host.files import read_limited, write_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

NAME = "waiting.json"
MAX_FILE = 16 * 1024


class Waiting:
    """Said in ``folder``, and taken back there. A disk that takes nothing hides it, and hinders nobody."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._since = time.time()
        self._said = ""

    def say(self, reason: str) -> None:
        if reason == self._said:
            return
        self._said = reason
        told = {"pid": os.getpid(), "since": self._since, "reason": reason}
        try:
            write_private(self._path, json.dumps(told).encode())
        except OSError:
            return

    def over(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            return


def reason(folder: str) -> str | None:
    """Why the node of this folder waits; None when it does not."""
    try:
        found = json.loads(read_limited(f"{folder}/{NAME}", MAX_FILE))
        pid, said = int(found["pid"]), str(found["reason"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OperatorError):
        return None
    # Whoever was killed while it waited has not taken it back.
    return said if os.path.exists(f"/proc/{pid}") else None
