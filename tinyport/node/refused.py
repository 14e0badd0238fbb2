"""Patience for a device that is refused: whoever starts services starts it again in seconds, for ever, and a fleet
whose token has ended would ask hundreds of times a second.

Two refusals of the same token are said and are the end at once, as somebody may be looking. From then on the process
waits before it ends, longer each time. The node's folder remembers how many there were.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from tinyport.core.errors import TinyportError
from tinyport.host.files import read_limited, write_private
from tinyport.host.logging_line import Log
from tinyport.host.sd_notify import notify

FILE = "refused"
AT_ONCE = 2
FIRST_WAIT = 30.0
LONGEST_WAIT = 900.0
# Between looks at the token's file, and signs of life for systemd.
_LOOK = 5.0
_MOST = 99


class Refusals:
    """Those of one token; another one begins anew."""

    def __init__(self, folder: Path, token: str, log: Log) -> None:
        self._path = folder / FILE
        self._token = hashlib.sha256(token.encode()).hexdigest()[:16]
        self._log = log

    def wait(self, error: TinyportError, token_file: Path | None) -> None:
        """Wait as long as it is time to. Ends early when somebody puts another token into the file."""
        count = self._count()
        with contextlib.suppress(OSError):
            write_private(self._path, f"{self._token} {min(count + 1, _MOST)}\n".encode())
        if count < AT_ONCE:
            return
        longest = min(FIRST_WAIT * 2 ** (count - AT_ONCE), LONGEST_WAIT)
        pause = random.uniform(longest / 2, longest)  # noqa: S311 - spreads a fleet, guards nothing
        self._log.warning("refused again", reason=error, hint=error.hint, next_try=f"{pause:.0f}s")
        self._sit_out(time.monotonic() + pause, error, _stamp(token_file))

    def _sit_out(self, end: float, error: TinyportError, changed: Callable[[], bool]) -> None:
        while (left := end - time.monotonic()) > 0 and not changed():
            notify(f"READY=1\nSTATUS=refused: {' '.join(error.message.split())}\nWATCHDOG=1")
            time.sleep(min(left, _LOOK))

    def forget(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _count(self) -> int:
        try:
            token, count = read_limited(self._path, 64).decode("ascii").split()
            return min(int(count), _MOST) if token == self._token else 0
        except (OSError, ValueError, TinyportError):
            return 0


def _stamp(path: Path | None) -> Callable[[], bool]:
    """Has the file been changed since?"""

    def now() -> tuple[int, int] | None:
        try:
            found = os.stat(path) if path is not None else None
        except OSError:
            return None
        return None if found is None else (found.st_ino, found.st_mtime_ns)

    then = now()
    return lambda: now() != then
