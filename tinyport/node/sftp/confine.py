"""Before an sftp session in a root of its own is started: will it hold? The server checks again, when it enters."""

from __future__ import annotations

import os

from tinyport.core.errors import AccessDenied
from tinyport.node.sftp import root as sftp_root


def check(root: str, *, privileged: bool) -> None:
    """AccessDenied when this node cannot confine anybody to ``root``; the reason is for our log."""
    message = "this node cannot confine file transfer to a folder, as your roles demand"
    if not privileged:
        raise AccessDenied(message, detail=f"sftp_root {root}: the node does not run as root", code="sftp_root")
    try:
        os.close(sftp_root.open_safely(root))
    except sftp_root.UnsafeRoot as error:
        raise AccessDenied(message, detail=f"sftp_root: {error}", code="sftp_root") from None
