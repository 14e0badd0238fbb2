"""What a person reads before their first prompt: when they were here last, and the message of the day."""

from __future__ import annotations

import os
import time

from tinyport.core.names import printable
from tinyport.host.login_records import LastLogin

#: as Debian's pam_motd has them: what scripts made at boot, then what the administrator wrote
MOTD = ("/run/motd.dynamic", "/etc/motd")
HUSH = ".hushlogin"
MAX_MOTD = 64 * 1024


def greeting(home: str, last: LastLogin | None) -> bytes:
    """For a terminal that is not raw. Empty when the person wants none (login(1): ``~/.hushlogin``).

    To be called as the user: the home is theirs, and may be somewhere that root cannot read.
    """
    if os.path.exists(f"{home}/{HUSH}"):
        return b""
    text = b"".join(_file(path) for path in MOTD)
    if last is not None:
        text += last_login_line(last).encode()
    return text


def last_login_line(last: LastLogin) -> str:
    """``Last login: Mon Nov 23 20:15:03 2026 from 10.0.0.9``, as sshd has it."""
    when = time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(last.time))
    where = f" from {printable(last.host, 80)}" if last.host else f" on {printable(last.line, 40)}"
    return f"Last login: {when}{where}\n"


def _file(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    with open(descriptor, "rb") as file:
        text = file.read(MAX_MOTD) or b""
    return text if not text or text.endswith(b"\n") else text + b"\n"
