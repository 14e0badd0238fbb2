"""``tsh join``: look on in somebody's session, or type into it, too; as one's roles allow, which the node decides."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping

from tinyport.client.engine import Wish, connected
from tinyport.client.factors import dialled
from tinyport.client.session import LOST, SessionWish
from tinyport.client.ssh import talk
from tinyport.client.ssh_options import parse_options
from tinyport.client.target import checked_login, default_login
from tinyport.client.whoami import auth_client, identity_of
from tinyport.core.errors import OperatorError, TinyportError
from tinyport.core.names import printable
from tinyport.core.session_joining import join_subsystem
from tinyport.host.console import report
from tinyport.host.user_identity import UserIdentity


def run(args: argparse.Namespace) -> int:
    """The status of the session's end; 255 for everything that kept us out, as ``tsh ssh``."""
    try:
        identity = identity_of(args)
        session = _find(identity, args.session)
        node, name = str(session.get("node_uuid") or ""), printable(str(session.get("node")), 64)
        wish = Wish(target=node, login=checked_login(args.login or _login(identity, session)))
        identity, (way,) = dialled(identity, [wish])
        who = printable(str(session.get("user")), 64)
        print(f"tsh: joining the session of {who} on {name} as {args.mode}; ~. leaves", file=sys.stderr)
        subsystem = join_subsystem(str(session["id"]), args.mode)
        looking = SessionWish(command=subsystem, pty=True, subsystem=True)
        return asyncio.run(talk(connected(identity, wish, way), looking, [], parse_options([])))
    except (TinyportError, OSError) as error:
        report("tsh", error, debug=args.debug)
        return LOST
    except KeyboardInterrupt:
        return LOST


def _find(identity: UserIdentity, text: str) -> Mapping[str, object]:
    """The one session whose id begins so."""
    with auth_client(identity) as client:
        answer = client.request("GET", "/v1/sessions")
    found = answer.get("sessions")
    sessions = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    fitting = [one for one in sessions if str(one.get("id")).startswith(text)]
    if len(fitting) != 1 or not text:
        what = f"{len(fitting)} live sessions begin with" if fitting else "there is no live session that you may join:"
        raise OperatorError(f"{what} {printable(text, 40)}", hint='"tsh sessions" lists them', code="not_found")
    return fitting[0]


def _login(identity: UserIdentity, session: Mapping[str, object]) -> str:
    """Nobody becomes anybody by joining, but an SSH connection names a login: the session's, if it is one of ours."""
    theirs = session.get("login")
    return theirs if isinstance(theirs, str) and theirs in identity.logins else default_login(identity)
