"""PAM's account stack before somebody forwards: sshd asks it for whoever logs in, and ``ssh -N`` starts no session."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import NoReturn

from tinyport.core.errors import AccessDenied, TinyportError
from tinyport.host.pam import Pam
from tinyport.node.ipc import Channel
from tinyport.node.python_process import execute
from tinyport.node.session.process import apart
from tinyport.node.session.spare import PamWish


def admit(wish: PamWish, user: str, argv: Sequence[str], theirs: socket.socket) -> NoReturn:
    """In a child of the keeper: become the helper that ``argv`` starts, or say on ``theirs``, its channel to the
    keeper, that the account may not be used: ``{"op": "refused", "message": why}``.
    """
    try:
        apart({theirs.fileno()}, "tinyport-pam")
        _check(wish, user)
    except TinyportError as error:
        Channel(theirs, queue_limit=1).send({"op": "refused", "message": error.message})
        os._exit(0)
    except BaseException as error:
        os.write(2, f"tinyport: error: PAM: {type(error).__name__}: {error}\n".encode())
        os._exit(1)
    execute(argv, [theirs.fileno()])


def _check(wish: PamWish, user: str) -> None:
    # As sshd calls it for whoever has no terminal. There is nobody to show a module's remarks to.
    pam = Pam(wish.service, user, tty="ssh", host=wish.host, say=lambda text: None)
    try:
        if not pam.account():
            raise AccessDenied("the account's password must be changed first: log in with a terminal", code="account")
    finally:
        pam.close()
