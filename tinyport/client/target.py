"""Who to be, and where: the words that name a node and a login on it."""

from __future__ import annotations

import os

from tinyport.core.errors import OperatorError, PeerError
from tinyport.core.names import check_login, printable
from tinyport.host.user_identity import UserIdentity


def split_target(text: str) -> tuple[str | None, str]:
    """``[LOGIN@]NODE`` → (login, node). The last @ counts: a login may hold one, a node may not."""
    login, at, node = text.rpartition("@")
    if not node or (at and not login):
        raise OperatorError(f"{printable(text, 100)} names no node", hint="write LOGIN@NODE", code="usage")
    return (login if at else None), node


def strip_port(target: str) -> str:
    """``LOGIN@NODE:PORT`` → ``LOGIN@NODE``; names of nodes have no colon."""
    head, colon, port = target.rpartition(":")
    return head if colon and port.isascii() and port.isdigit() else target


def checked_login(login: str) -> str:
    """A login that a node may have; OperatorError otherwise."""
    try:
        return check_login(login)
    except PeerError as error:
        raise OperatorError(error.message, hint=error.hint) from None


def local_user() -> str:
    """The name of the person on this machine; "" when it has none (a container's bare number)."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""


def default_login(identity: UserIdentity) -> str:
    """The login on a node when none was named: TINYPORT_LOGIN, one's name here if the certificate allows it, else the
    first login that it allows.
    """
    named = os.environ.get("TINYPORT_LOGIN")
    if named:
        return named
    mine = local_user()
    if mine in identity.logins or not identity.logins:
        return mine
    return identity.logins[0]
