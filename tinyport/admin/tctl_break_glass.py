"""``tctl auth sign --break-glass``: a way into one node, once, for the day when auth is gone (docs/break-glass.md)."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from tinyport.admin.answers import body, duration, words
from tinyport.admin.connection import connect
from tinyport.admin.key_files import write_key_files
from tinyport.core.certificate import parse_public_line, public_line
from tinyport.core.errors import PeerError
from tinyport.core.names import check_cluster, check_login, check_node, is_uuid, parse_address, printable
from tinyport.core.signatures import Ed25519Key
from tinyport.host.console import UsageError, format_time
from tinyport.host.files import write_public

NODE_PORT = 3022


def sign(args: argparse.Namespace, output: Path) -> int:
    """Make the key here, have it certified, and write it with what ssh needs to know the node without us."""
    if not args.node:
        raise UsageError("--break-glass is for one node: give --node N")
    logins = [check_login(login) for login in args.login or ["root"]]
    key = Ed25519Key.generate()
    request = body(
        break_glass=args.node, logins=logins, ssh_public_key=public_line(key.public_blob), ttl=duration(args.ttl)
    )
    with connect(args) as client:
        answer = client.request("POST", "/v1/sign", request)
    host = f"{check_node(answer.get('node'))}.{check_cluster(answer.get('cluster'))}"
    files = write_key_files(output, key.to_openssh().decode(), key.public_blob, str(answer.get("ssh_certificate")))
    known = output.with_name(output.name + ".known_hosts")
    write_public(known, _known_hosts(host, answer).encode())
    print(", ".join(str(path) for path in (*files, known)))
    print(f"Good for one use on {host}, {_until(answer)}. Keep it where auth is not. To get in:")
    found = words(answer.get("addresses")).split(",")[0]
    address, port = parse_address(found, NODE_PORT) if found else ("ADDRESS", NODE_PORT)
    command = [
        *("ssh", "-p", str(port), "-i", str(output), "-o", "IdentitiesOnly=yes", "-o", f"HostKeyAlias={host}"),
        *("-o", f"UserKnownHostsFile={known}", f"{logins[0]}@{address}"),
    ]
    print(f"  {printable(shlex.join(command), 1000)}")
    return 0


def _known_hosts(host: str, answer: dict[str, object]) -> str:
    """The node's own key beside the CAs: with auth away for a week, its certificate has expired."""
    uuid, cas = answer.get("uuid"), answer.get("host_cas")
    if not isinstance(uuid, str) or not is_uuid(uuid) or not isinstance(cas, list):
        raise PeerError("auth's answer is not one", hint="is auth of another version?")
    plain = public_line(parse_public_line(str(answer.get("host_key"))))
    lines = [f"{host} {plain}"]
    lines += [f"@cert-authority {host} {public_line(parse_public_line(str(line)))}" for line in cas]
    return "".join(f"{line}\n" for line in lines)


def _until(answer: dict[str, object]) -> str:
    end = answer.get("valid_before")
    return f"until {format_time(end)}" if isinstance(end, (int, float)) else "for a time"
