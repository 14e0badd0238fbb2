"""How much a client may ask for its session, and which variables. Light: worker and keeper both look."""

from __future__ import annotations

MAX_ENVIRONMENT = 64
# sshd passes whatever fits in a packet; a locale does not need more.
MAX_VALUE = 1024
MAX_NAME = 64
# Linux passes no longer argument (MAX_ARG_STRLEN), with the zero byte behind it.
MAX_COMMAND = 128 * 1024 - 1
# RFC 4254 section 6.10, without the "SIG": what a client may send, and what may be told of one that ended a process.
SIGNALS = frozenset(
    ("ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2")
)


def client_variable_allowed(name: str) -> bool:
    """May the client set it? Nothing that a loader, a shell or a language runtime obeys; sshd_config(5) AcceptEnv of
    Debian, and what terminals of today say about colours.
    """
    if name in ("LANG", "COLORTERM", "NO_COLOR"):
        return True
    return name.startswith("LC_") and name.isascii() and name.replace("_", "x").isalnum() and 3 < len(name) <= MAX_NAME
