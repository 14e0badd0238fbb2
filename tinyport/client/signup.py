"""``tsh signup``: an invitation becomes a user with a password and, where the cluster asks for it, an authenticator."""

from __future__ import annotations

import argparse
import sys
from urllib.parse import urlsplit

from tinyport.client import prompt
from tinyport.client.one_time_code import show_enrolment
from tinyport.client.trust import trusted_client
from tinyport.core.errors import AccessDenied, OperatorError
from tinyport.core.names import format_address, printable
from tinyport.host.profile import Profiles, home, proxy_address


def signup(args: argparse.Namespace) -> int:
    """Accept an invitation: choose a password for the user it names."""
    proxy, invitation = _parse_invitation(args.url)
    client = trusted_client(proxy, pins=args.ca_pin or (), known_cas=_known_cas(proxy), insecure=args.insecure)
    with client:
        found = client.request("POST", "/v1/invitation", {"invitation": invitation})
        rule = found.get("second_factor", "off")
        user = printable(str(found.get("user", "")), 64)
        print(f"An invitation for {user} to {printable(str(found.get('cluster', '')), 100)}.", file=sys.stderr)
        secret = prompt.new_password(f"new password for {user}: ")
        wanted: dict[str, object] = {"invitation": invitation, "password": secret}
        if rule == "required" or (rule == "optional" and prompt.confirmed("Set up one-time codes, too")):
            show_enrolment(found.get("totp"))
            wanted["otp"] = prompt.code("its first code: ")
        client.request("POST", "/v1/signup", wanted)
    print(f"{user} is signed up.")
    pins = "".join(f" --ca-pin {pin}" for pin in args.ca_pin or ())
    print(f'tsh: hint: log in with "tsh login --proxy {proxy} --user {user}{pins}"', file=sys.stderr)
    return 0


def _parse_invitation(url: str) -> tuple[str, str]:
    """``https://proxy[:port]/invite#id.secret`` → ("host:port", "id.secret")."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
    except ValueError:
        host, port = None, 0
    else:
        if parts.scheme == "https" and host and parts.fragment:
            return proxy_address(format_address(host, port)), parts.fragment
    raise OperatorError(
        "this is not an invitation",
        hint="give the whole link in quotes: 'https://PROXY/invite#ID.SECRET'",
        code="usage",
    )


def _known_cas(proxy: str) -> tuple[str, ...]:
    try:
        return Profiles(home()).load(proxy).identity.tls_cas
    except AccessDenied:
        return ()
