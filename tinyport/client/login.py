"""``tsh signup``, ``login``, ``logout`` and ``status``."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from tinyport.client import agent, prompt
from tinyport.client.trust import trusted_client
from tinyport.core.certificate import Certificate, fingerprint, parse_public_line, public_line
from tinyport.core.durations import format_duration, parse_duration
from tinyport.core.errors import AccessDenied, OperatorError, PeerError
from tinyport.core.names import check_user, format_address, printable
from tinyport.host import user_identity
from tinyport.host.console import NOT_LOGGED_IN, emit, format_time, paint, table
from tinyport.host.profile import Profile, Profiles, home, proxy_address
from tinyport.host.user_identity import UserIdentity
from tinyport.link.login_keys import LoginKeys


def signup(args: argparse.Namespace) -> int:
    """Accept an invitation: choose a password for the user it names."""
    proxy, invitation = _parse_invitation(args.url)
    client = trusted_client(proxy, pins=args.ca_pin or (), known_cas=_known_cas(proxy), insecure=args.insecure)
    with client:
        found = client.request("POST", "/v1/invitation", {"invitation": invitation})
        user = printable(str(found.get("user", "")), 64)
        print(f"An invitation for {user} to {printable(str(found.get('cluster', '')), 100)}.", file=sys.stderr)
        secret = prompt.new_password(f"new password for {user}: ")
        client.request("POST", "/v1/signup", {"invitation": invitation, "password": secret})
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


def login(args: argparse.Namespace) -> int:
    """Prove who one is by password; keep the certificates that auth gives."""
    profiles = Profiles(home())
    before = _profile(profiles, args)
    proxy = _wanted_proxy(args, before)
    user = _wanted_user(args, before if before is not None and before.identity.proxy == proxy else None)
    ttl = parse_duration(args.ttl) if args.ttl else None
    known = before.identity.tls_cas if before is not None and before.identity.proxy == proxy else ()
    client = trusted_client(proxy, pins=args.ca_pin or (), known_cas=known, insecure=args.insecure)
    with client:
        secret = prompt.password(f"password of {user} at {proxy}: ")
        keys = LoginKeys(user)
        request: dict[str, object] = {
            "user": user,
            "password": secret,
            "ssh_public_key": public_line(keys.ssh_public_blob),
            "tls_csr": keys.tls_csr,
        }
        if ttl is not None:
            request["ttl"] = ttl
        answer = client.request("POST", "/v1/login", request)
    identity = user_identity.from_login(answer, proxy=proxy, ssh_key=keys.ssh_key, tls_key=keys.tls_key)
    _check_answer(identity, user, client.cluster, keys)
    if args.out:
        user_identity.save(Path(args.out), identity)
        print(f"The identity of {identity.user} is in {printable(str(args.out))}.")
        return 0
    if before is not None and before.identity.proxy == proxy:
        agent.withdraw(before.identity.ssh_certificate)
    profile = profiles.save(identity)
    trouble = agent.offer(identity, time.time())
    if trouble:
        print(f"tsh: warning: {trouble}", file=sys.stderr)
    for line in _describe(profile, time.time(), current=True):
        print(line)
    return 0


def _check_answer(identity: UserIdentity, user: str, cluster: str | None, keys: LoginKeys) -> None:
    """Auth was proven by TLS; what it sent must still fit what was asked, or the files would not work together."""
    certificate = Certificate.decode(parse_public_line(identity.ssh_certificate))
    if identity.user != user or identity.cluster != cluster or certificate.public_key != keys.ssh_public_blob:
        raise PeerError("the certificate that auth sent is not for what was asked")


def _profile(profiles: Profiles, args: argparse.Namespace) -> Profile | None:
    """The profile that a login would renew."""
    wanted = args.proxy or os.environ.get("TINYPORT_PROXY")
    try:
        return profiles.load(proxy_address(wanted) if wanted else None)
    except AccessDenied:
        return None


def _known_cas(proxy: str) -> tuple[str, ...]:
    try:
        return Profiles(home()).load(proxy).identity.tls_cas
    except AccessDenied:
        return ()


def _wanted_proxy(args: argparse.Namespace, before: Profile | None) -> str:
    wanted = args.proxy or os.environ.get("TINYPORT_PROXY")
    if wanted:
        return proxy_address(wanted)
    if before is None:
        raise OperatorError("which cluster?", hint='run "tsh login --proxy HOST:PORT"', code="usage")
    return before.identity.proxy


def _wanted_user(args: argparse.Namespace, before: Profile | None) -> str:
    wanted = args.user or os.environ.get("TINYPORT_USER") or (before.identity.user if before is not None else None)
    try:
        return check_user(wanted or getpass.getuser())
    except (PeerError, KeyError, OSError) as error:
        message = error.message if isinstance(error, PeerError) else "this machine does not know your name"
        raise OperatorError(message, hint="give the cluster's name for you with --user", code="usage") from None


def logout(args: argparse.Namespace) -> int:
    """Forget a login, here and in the agent. The certificate itself stays good until it expires."""
    profiles = Profiles(home())
    if args.all:
        found = [profiles.load(_proxy_of(name)) for name in profiles.names()]
    else:
        profile = _profile(profiles, args)
        found = [] if profile is None else [profile]
    if not found:
        print("Not logged in.")
    for profile in found:
        agent.withdraw(profile.identity.ssh_certificate)
        profiles.remove(profile)
        print(f"Logged out {profile.identity.user} at {profile.identity.proxy}.")
    return 0


def status(args: argparse.Namespace) -> int:
    """Who one is, where, and until when; exit status 3 when that is over."""
    now = time.time()
    if args.identity:
        identity = user_identity.load(args.identity)
        found = [Profile("", Path(args.identity).parent, identity)]
        current = ""
    else:
        profiles = Profiles(home())
        wanted = args.proxy or os.environ.get("TINYPORT_PROXY")
        chosen = profiles.load(proxy_address(wanted) if wanted else None)
        others = [profiles.load(_proxy_of(name)) for name in profiles.names() if name != chosen.name and not wanted]
        found, current = [chosen, *others], chosen.name
    emit(
        args,
        [_document(profile, now, current=profile.name == current) for profile in found],
        lambda: [line for profile in found for line in _describe(profile, now, current=profile.name == current)],
    )
    first = found[0].identity
    if first.expired(now):
        print('tsh: hint: run "tsh login"', file=sys.stderr)
        return NOT_LOGGED_IN
    return 0


def _proxy_of(name: str) -> str:
    host, _, port = name.rpartition("_")
    return format_address(host, int(port)) if port.isdigit() else name


def clusters(args: argparse.Namespace) -> int:
    """The clusters one has a login for."""
    now = time.time()
    profiles = Profiles(home())
    current = profiles.current()
    found = [profiles.load(_proxy_of(name)) for name in profiles.names()]
    rows = [_document(profile, now, current=profile.name == current) for profile in found]
    emit(
        args,
        [{key: row[key] for key in ("cluster", "proxy", "user", "current", "expired")} for row in rows],
        lambda: table(
            [(row["cluster"], row["proxy"], row["user"], "expired" if row["expired"] else "") for row in rows],
            ("CLUSTER", "PROXY", "USER", ""),
        ),
    )
    return 0


def _document(profile: Profile, now: float, *, current: bool) -> dict[str, object]:
    identity = profile.identity
    certificate = Certificate.decode(parse_public_line(identity.ssh_certificate))
    return {
        "proxy": identity.proxy,
        "cluster": identity.cluster,
        "user": identity.user,
        "roles": list(identity.roles),
        "logins": list(identity.logins or certificate.principals),
        "valid_after": identity.valid_after,
        "valid_before": identity.valid_before,
        "expired": identity.expired(now),
        "current": current,
        "fingerprint": fingerprint(certificate.public_key),
        "folder": str(profile.folder),
    }


def _describe(profile: Profile, now: float, *, current: bool) -> list[str]:
    """A login for people."""
    identity = profile.identity
    found = _document(profile, now, current=current)
    left = identity.valid_before - now
    if left > 0:
        until = f"until {format_time(identity.valid_before)} ({format_duration(left)} left)"
    else:
        until = paint(f"expired {format_duration(-left)} ago", "red")
    rows = (
        ("proxy", identity.proxy),
        ("cluster", identity.cluster),
        ("user", identity.user),
        ("roles", ", ".join(identity.roles)),
        ("logins", ", ".join(str(name) for name in _texts(found["logins"]))),
    )
    mark = ">" if current else " "
    lines = [
        f"{mark if number == 0 else ' '} {key + ':':<9} {printable(value, 300)}"
        for number, (key, value) in enumerate(rows)
    ]
    return [*lines, f"  {'valid:':<9} {until}"]


def _texts(value: object) -> list[object]:
    return value if isinstance(value, list) else []
