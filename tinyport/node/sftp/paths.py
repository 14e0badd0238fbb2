"""Paths as clients ask about them: made absolute, resolved, with ``~`` filled in."""

from __future__ import annotations

import errno
import os

from tinyport.node.sftp import wire as w
from tinyport.node.sftp.owners import Owners


def resolve(path: bytes) -> bytes:
    """The absolute path without links. As OpenSSH's realpath: its last part need not exist, the others must (OSError
    otherwise).
    """
    found = os.path.realpath(path)
    try:
        os.lstat(found)
    except FileNotFoundError:
        # lstat of the parent would take a file for a folder: "file/name" is not a path.
        os.lstat(os.path.join(os.path.dirname(found), b"."))
    if os.path.islink(found):
        # Only a link that leads to itself is left unresolved.
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return found


def expand(path: bytes, start: bytes, owners: Owners) -> bytes:
    """PROTOCOL 4.9: as ``resolve``, with ``~`` (the folder that the session began in), ``~/...`` and ``~user/...``."""
    if path[:1] == b"~":
        name, slash, rest = path[1:].partition(b"/")
        home = start if not name else owners.home(name)
        if home is None:
            raise w.Refused(w.NO_SUCH_FILE, "no such user")
        path = os.path.join(home, rest) if slash else home
    return resolve(os.path.join(start, path))
