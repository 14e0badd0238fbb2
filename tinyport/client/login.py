"""``tsh login``, ``logout`` and ``status``."""

from __future__ import annotations

import argparse
import getpass
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tinyport.client import agent, prompt
from tinyport.client.one_time_code import with_code
from tinyport.client.ssh_config import write_known_hosts
from tinyport.client.trust import trusted_client
from tinyport.client.whoami import auth_client
from tinyport.client.wrong_address import refuse_auths_own_port
from tinyport.core.certificate import Certificate, fingerprint, parse_public_line, public_line
from tinyport.core.durations import format_duration
from tinyport.core.errors import AccessDenied, OperatorError, PeerError, TinyportError, Unavailable
from tinyport.core.names import NO_LOGIN, check_user, format_address, parse_address, printable
from tinyport.host import user_identity
from tinyport.host.console import NOT_LOGGED_IN, emit, format_time, paint
from tinyport.host.console_table import table
from tinyport.host.moments import seconds
from tinyport.host.profile import Profile, Profiles, home, proxy_address
from tinyport.host.user_identity import UserIdentity
from tinyport.link.login_keys import LoginKeys


def login(args: argparse.Namespace) -> int:
    """Prove who one is by password, or by a login that may be extended; keep the certificates that auth gives."""
    profiles = Profiles(home())
    before = _profile(profiles, args)
    proxy = _wanted_proxy(args, before)
    user = _wanted_user(args, before if before is not None and before.identity.proxy == proxy else None)
    ttl = seconds(args.ttl) if args.ttl else None
    keys = LoginKeys(user)
    wanted: dict[str, object] = {"ssh_public_key": public_line(keys.ssh_public_blob), "tls_csr": keys.tls_csr}
    if ttl is not None:
        wanted["ttl"] = ttl
    held = before.identity if before is not None and before.identity.proxy == proxy else None
    answer = None if held is None or held.user != user else _extended(held, wanted)
    if answer is None:
        known = held.tls_cas if held is not None else ()
        client = trusted_client(proxy, pins=args.ca_pin or (), known_cas=known, insecure=args.insecure)
        with client:
            refuse_auths_own_port(parse_address(proxy), client)
            secret = prompt.password(f"password of {user} at {proxy}: ")
            request = {**wanted, "user": user, "password": secret}
            answer = with_code(lambda more: client.request("POST", "/v1/login", {**request, **more}))
            cluster = client.cluster
    else:
        cluster = held.cluster if held is not None else None
    identity = user_identity.from_login(answer, proxy=proxy, ssh_key=keys.ssh_key, tls_key=keys.tls_key)
    _check_answer(identity, user, cluster, keys)
    if args.out:
        user_identity.save(Path(args.out), identity)
        print(f"The identity of {identity.user} is in {printable(str(args.out))}.")
        return 0
    if before is not None and before.identity.proxy == proxy:
        agent.withdraw(before.identity.ssh_certificate)
    profile = profiles.save(identity)
    if profiles.known_hosts.exists():
        # Who uses ssh has the block of "tsh config", which stays; the CAs may be others since.
        write_known_hosts(profiles)
    trouble = agent.offer(identity, time.time())
    if trouble:
        print(f"tsh: warning: {trouble}", file=sys.stderr)
    for line in _describe(profile, time.time(), current=True):
        print(line)
    return 0


def _extended(held: UserIdentity, wanted: dict[str, object]) -> dict[str, object] | None:
    """A newer login for the one that is held, where roles allow that; else None, and the password is asked for."""
    if held.expired(time.time()):
        return None
    try:
        with auth_client(held) as client:
            return client.request("POST", "/v1/login/extend", wanted)
    except (AccessDenied, PeerError, Unavailable):
        # Not allowed, withdrawn, of a CA that was rotated, or the cluster was made anew: a password decides.
        return None


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
    rows: list[dict[str, object]] = []
    for profile in found:
        row = _document(profile, now, current=profile.name == current)
        rows.append(
            {key: row[key] for key in ("cluster", "proxy", "user", "current", "expired")}
            | {"through": None, "online": None}
        )
        if not row["expired"]:
            rows += _others(profile)
    emit(
        args,
        rows,
        lambda: table(
            [
                (
                    row["cluster"],
                    row["proxy"],
                    row["user"],
                    _standing(row),
                )
                for row in rows
            ],
            ("CLUSTER", "PROXY", "USER", "STATUS"),
        ),
    )
    return 0


def _standing(row: Mapping[str, object]) -> str:
    if row["expired"]:
        return "login expired"
    if row["through"] is None:
        return "logged in"
    known = f"known to {row['through']}"
    # Whether another cluster's proxy is there, nobody can say who does not ask it.
    return known if row["online"] is None else f"{'online' if row['online'] else 'offline'}, {known}"


def _others(profile: Profile) -> list[dict[str, object]]:
    """Clusters to which one may go with this login; none when auth cannot be asked now."""
    from tinyport.client.other_clusters import other_clusters

    identity = profile.identity
    try:
        others = other_clusters(identity)
    except TinyportError as error:
        print(f"tsh: warning: clusters known to {identity.cluster} are not listed: {error.message}", file=sys.stderr)
        return []
    about = {"user": f"{identity.user}@{identity.cluster}", "current": False, "expired": False}
    return [
        {
            "cluster": one.name,
            # Without one of its own, the way is a tunnel to ours.
            "proxy": one.proxy or identity.proxy,
            **about,
            "through": identity.cluster,
            "online": one.online,
        }
        for one in others
    ]


def _document(profile: Profile, now: float, *, current: bool) -> dict[str, object]:
    identity = profile.identity
    certificate = Certificate.decode(parse_public_line(identity.ssh_certificate))
    return {
        "proxy": identity.proxy,
        "cluster": identity.cluster,
        "user": identity.user,
        "roles": list(identity.roles),
        "logins": [name for name in identity.logins or certificate.principals if name != NO_LOGIN],
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
        until = f"until {format_time(identity.valid_before)} ({format_duration(math.ceil(left / 60) * 60)} left)"
    else:
        until = paint(f"expired {format_duration(-left)} ago", "red")
    rows = (
        ("proxy", identity.proxy),
        ("cluster", identity.cluster),
        ("user", identity.user),
        ("roles", ", ".join(identity.roles)),
        ("logins", ", ".join(str(name) for name in _texts(found["logins"])) or "none"),
    )
    mark = ">" if current else " "
    lines = [
        f"{mark if number == 0 else ' '} {key + ':':<9} {printable(value, 300)}"
        for number, (key, value) in enumerate(rows)
    ]
    return [*lines, f"  {'valid:':<9} {until}"]


def _texts(value: object) -> list[object]:
    return value if isinstance(value, list) else []
