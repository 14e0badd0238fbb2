"""``tsh mfa``: one's own second factors; and the certificate for a session that a role with ``require_mfa`` wants."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from tinyport.client import prompt
from tinyport.client.dial import Dialled
from tinyport.client.engine import Dialling, Wish
from tinyport.client.one_time_code import show_enrolment, with_code
from tinyport.client.whoami import auth_client, identity_of
from tinyport.core.certificate import public_line
from tinyport.core.errors import AccessDenied, PeerError, TinyportError
from tinyport.core.names import printable
from tinyport.host.console import emit, format_time
from tinyport.host.console_table import table
from tinyport.host.user_identity import UserIdentity


def add(args: argparse.Namespace) -> int:
    """A new authenticator, once its first code was typed."""
    with auth_client(identity_of(args)) as client:
        begun = with_code(lambda more: client.request("POST", "/v1/mfa", {"name": args.name, **more}))
        show_enrolment(begun.get("totp"))
        code = prompt.code("its first code: ")
        client.request("POST", f"/v1/mfa/{begun.get('id')}/confirm", {"otp": code})
    print(f"Second factor {printable(args.name)} is set up.")
    return 0


def ls(args: argparse.Namespace) -> int:
    with auth_client(identity_of(args)) as client:
        answer = client.request("GET", "/v1/mfa")
    found = answer.get("factors")
    factors = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    rows = [
        (one.get("name"), one.get("type"), format_time(_number(one.get("created"))), one.get("id")) for one in factors
    ]
    emit(args, answer, lambda: table(rows, ("NAME", "TYPE", "SINCE", "ID")))
    return 0


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def rm(args: argparse.Namespace) -> int:
    from urllib.parse import quote

    with auth_client(identity_of(args)) as client:
        path = f"/v1/mfa/{quote(args.name, safe='')}/remove"
        with_code(lambda more: client.request("POST", path, more))
    print(f"Second factor {printable(args.name)} is removed.")
    return 0


def stepped_up(
    identity: UserIdentity, refusal: AccessDenied, targets: Sequence[str], why: str | None = None
) -> UserIdentity:
    """The same identity with a certificate that says: a code was just shown, for sessions on ``targets``. ``why``: what
    the person is told first, if not the words of the refusal.

    Raises ``refusal`` when it is not about that. The key is a new one and stays in memory.
    """
    if refusal.code != "mfa_required":
        raise refusal
    from tinyport.link.login_keys import LoginKeys

    print(f"tsh: {printable(why or refusal.message)}", file=sys.stderr)
    keys = LoginKeys(identity.user)
    with auth_client(identity) as client:
        answer = client.request(
            "POST",
            "/v1/mfa/session",
            {
                "nodes": list(targets),
                "otp": prompt.code("one-time code: "),
                "ssh_public_key": public_line(keys.ssh_public_blob),
            },
        )
    certificate = answer.get("ssh_certificate")
    if not isinstance(certificate, str):
        raise PeerError("auth sent no certificate")
    return replace(identity, ssh_key=keys.ssh_key, ssh_certificate=certificate)


def dialled(identity: UserIdentity, wishes: Sequence[Wish]) -> tuple[UserIdentity, list[Dialled]]:
    """Open ways to the nodes of ``wishes``, and who to be there: where a node wants a code, it is asked for once for
    all of them. Raises as ``dial``; then none is left open.
    """
    try:
        return identity, _dial_all(identity, wishes)
    except AccessDenied as error:
        identity = stepped_up(identity, error, list(dict.fromkeys(wish.target for wish in wishes)))
    return identity, _dial_all(identity, wishes)


def _dial_all(identity: UserIdentity, wishes: Sequence[Wish]) -> list[Dialled]:
    under_way = [Dialling(identity, wish) for wish in wishes]
    done: list[Dialled] = []
    trouble: TinyportError | None = None
    for one in under_way:
        try:
            done.append(one.result())
        except TinyportError as error:
            trouble = trouble or error
    if trouble is not None:
        for found in done:
            found.socket.close()
        raise trouble
    return done
