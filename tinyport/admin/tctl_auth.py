"""``tctl auth``: the cluster's authorities, and certificates signed by hand."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tinyport.admin import tctl_break_glass, tctl_keys, tctl_rotate
from tinyport.admin.answers import body, duration, rows
from tinyport.admin.connection import connect, public_proxy
from tinyport.admin.key_files import write_key_files
from tinyport.core.certificate import public_line
from tinyport.core.errors import OperatorError, PeerError
from tinyport.core.names import check_node, check_user, printable
from tinyport.core.signatures import Ed25519Key
from tinyport.host import user_identity
from tinyport.host.console import CommandLine, UsageError, emit, output_options
from tinyport.host.user_identity import UserIdentity
from tinyport.link.api import AuthClient
from tinyport.link.login_keys import LoginKeys


def add_commands(parser: CommandLine) -> None:
    auth = parser.command("auth", help="authorities and certificates", examples=["tctl auth export --type host"])
    export = auth.command(
        "export",
        _export,
        help="print an authority's public keys",
        description="Print lines for TrustedUserCAKeys (user) or @cert-authority (host), PEM (tls), the policy key.",
        examples=["tctl auth export --type user > user_ca.pub", "tctl auth export --type tls --fingerprint"],
        parents=[output_options()],
    )
    export.add_argument("--type", choices=("user", "host", "tls", "policy"), required=True, help="which CA or key")
    export.add_argument("--fingerprint", action="store_true", help="fingerprints (tls: CA pins) only")
    sign = auth.command(
        "sign",
        _sign,
        help="make an identity file or a host certificate",
        examples=[
            "tctl auth sign --user backup -o backup.identity --ttl 12h",
            "tctl auth sign --user backup --format openssh -o backup",
            "tctl auth sign --host switch -o switch --ttl 30d",
            "tctl auth sign --break-glass --node greenhouse-7 --login root -o /mnt/safe/greenhouse-7",
        ],
        parents=[],
    )
    who = sign.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", metavar="U", help="an identity of this user")
    who.add_argument("--host", metavar="H", help="a host key and certificate for another sshd")
    who.add_argument("--break-glass", action="store_true", help="one use on one node, for when auth is gone")
    sign.add_argument("--node", metavar="N", help="with --break-glass: the node")
    sign.add_argument(
        "--login", action="append", metavar="L", help="with --break-glass: as whom (root); may be repeated"
    )
    sign.add_argument("-o", "--output", "--out", required=True, metavar="FILE", help="where to write it")
    sign.add_argument("--format", choices=("file", "openssh"), default="file", help="file: for tsh -i (default)")
    sign.add_argument("--ttl", metavar="12h", help="default 12h; with --break-glass 366d")
    tctl_rotate.add_command(auth)
    tctl_keys.add_commands(auth)


def _export(args: argparse.Namespace) -> int:
    with connect(args) as client:
        answer = client.request("GET", f"/v1/ca?type={args.type}")
    keys = rows(answer, "keys")
    emit(args, answer, lambda: [_exported(key, fingerprint=args.fingerprint) for key in keys])
    return 0


def _exported(key: dict[str, Any], *, fingerprint: bool) -> str:
    if fingerprint:
        return str(key.get("pin") or key.get("fingerprint"))
    text = str(key.get("line") or key.get("pem")).strip()
    # What goes into a file must be exactly a key: anything else in it is refused rather than escaped.
    if not all(line.isprintable() for line in text.splitlines()):
        raise PeerError("auth's answer is not a key")
    return text


def _sign(args: argparse.Namespace) -> int:
    output = Path(args.output)
    if args.break_glass:
        return tctl_break_glass.sign(args, output)
    if args.node or args.login:
        raise UsageError("--node and --login belong to --break-glass")
    ttl = duration(args.ttl or "12h")
    if args.host is not None:
        return _sign_host(args, output, ttl)
    with connect(args) as client:
        if args.format == "openssh":
            keys, answer = _certified(client, args.user, ttl)
            _write_openssh(output, keys.ssh_key, keys.ssh_public_blob, str(answer.get("ssh_certificate")))
            return 0
        proxy = public_proxy(client)
        if proxy is None:
            raise OperatorError("no proxy has joined that an identity file could name", hint="start one first")
        identity = sign_user(client, args.user, ttl, proxy)
    user_identity.save(output, identity)
    print(f"{output}: identity of {printable(args.user)}; use it with tsh -i {output}")
    return 0


def sign_user(client: AuthClient, user: str, ttl: int | None, proxy: str) -> UserIdentity:
    """A user's identity with keys that are made here. ``ttl``: seconds; ``proxy``: where the cluster is reached."""
    keys, answer = _certified(client, user, ttl)
    return user_identity.from_login(answer, proxy=proxy, ssh_key=keys.ssh_key, tls_key=keys.tls_key)


def _certified(client: AuthClient, user: str, ttl: int | None) -> tuple[LoginKeys, dict[str, object]]:
    keys = LoginKeys(check_user(user))
    request = body(user=user, ssh_public_key=public_line(keys.ssh_public_blob), tls_csr=keys.tls_csr, ttl=ttl)
    return keys, client.request("POST", "/v1/sign", request)


def _sign_host(args: argparse.Namespace, output: Path, ttl: int | None) -> int:
    key = Ed25519Key.generate()
    request = body(host=check_node(args.host), ssh_public_key=public_line(key.public_blob), ttl=ttl)
    with connect(args) as client:
        answer = client.request("POST", "/v1/sign", request)
    _write_openssh(output, key.to_openssh().decode(), key.public_blob, str(answer.get("ssh_certificate")))
    return 0


def _write_openssh(output: Path, key: str, blob: bytes, certificate: str) -> None:
    print(", ".join(str(path) for path in write_key_files(output, key, blob, certificate)))
