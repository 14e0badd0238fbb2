"""``tinyport quickstart``: a cluster of one, on this machine, in one command."""

from __future__ import annotations

import argparse
import json
import os
import pwd
import socket
from pathlib import Path
from typing import Any

from tinyport.admin import config_file
from tinyport.admin.local_cluster import LocalCluster, wait_online
from tinyport.admin.supervisor import Supervisor
from tinyport.core.certificate import public_line
from tinyport.core.config import Config
from tinyport.core.errors import OperatorError, TinyportError
from tinyport.core.names import format_address, parse_address
from tinyport.host import user_identity
from tinyport.host.files import private_folder, write_private
from tinyport.host.logging_line import Log
from tinyport.link.api import AuthClient
from tinyport.link.login_keys import LoginKeys
from tinyport.start import LOOPBACK, api_socket, nodename

CLUSTER_NAME = "tinyport.local"
ADMIN = "admin"
ADMIN_LIFE = 12 * 3600
DEFAULT_LISTEN = f"{LOOPBACK}:3080"


def default_folder() -> Path:
    """Where quickstart keeps its cluster when it is not told: with the person's other data."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "tinyport"


def run(args: argparse.Namespace) -> int:
    """Start everything, say what to type next, serve until SIGTERM."""
    folder = Path(args.data_dir or default_folder()).absolute()
    private_folder(folder)
    path = folder / "tinyport.toml"
    if not path.exists():
        write_private(path, _first_configuration(folder, args.listen).encode())
    document = config_file.read_document(path)
    if args.listen:
        # Port 0 means "choose one", and one was chosen when the file was written.
        host, port = parse_address(args.listen, 3080)
        if port:
            document["proxy"]["listen"] = format_address(host, port)
            document["proxy"]["public_addr"] = [format_address(host, port)]
    supervisor = Supervisor(Log("tinyport", "debug" if args.debug else "warning"))
    supervisor.install_signals()
    cluster = LocalCluster(document, str(path), supervisor)
    try:
        answers = cluster.start(("auth", "proxy", "node"))
        config = cluster.config
        wait_online(config, nodename(config), supervisor)
        identity = _administrator(config, folder)
        ready = _ready(config, answers, supervisor, identity)
        if args.ready_file:
            write_private(args.ready_file, json.dumps(ready, indent=1).encode() + b"\n")
        print("\n".join(_next_steps(ready, path)), flush=True)
        supervisor.watch()
    finally:
        supervisor.stop()
    return 0


def _first_configuration(folder: Path, listen: str | None) -> str:
    """The file that quickstart starts from and ``tctl -c`` reads: everything on loopback, ports that are free now."""
    host, port = parse_address(listen or DEFAULT_LISTEN, 3080)
    proxy = format_address(host, port or _free_port(host))
    quoted = json.dumps  # a JSON string is a TOML basic string
    return f"""# Written by tinyport quickstart. Edit it and run quickstart again.
[tinyport]
data_dir = {quoted(str(folder))}

[auth]
enabled = true
cluster_name = {quoted(CLUSTER_NAME)}
listen = {quoted(f"{LOOPBACK}:{_free_port(LOOPBACK)}")}

[proxy]
enabled = true
listen = {quoted(proxy)}
public_addr = [{quoted(proxy)}]

[node]
enabled = true
listen = [{quoted(f"{LOOPBACK}:{_free_port(LOOPBACK)}")}]
"""


def _free_port(host: str) -> int:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
        port: int = server.getsockname()[1]
        return port


def person() -> str:
    """The login of whoever runs this: behind sudo, the person who typed it."""
    name = pwd.getpwuid(os.getuid()).pw_name
    behind = os.environ.get("SUDO_USER")
    if os.getuid() == 0 and behind:
        try:
            return pwd.getpwnam(behind).pw_name
        except KeyError:
            return name
    return name


def _administrator(config: Config, folder: Path) -> Path:
    """Make the first user unless there is one, and a fresh identity file for it."""
    path = folder / "admin.identity"
    with AuthClient(api_socket(config)) as client:
        try:
            body = {"name": ADMIN, "roles": ["admin", "access"], "logins": [person()]}
            client.request("POST", "/v1/users", body)
        except TinyportError as error:
            if error.code != "exists":
                raise
        keys = LoginKeys(ADMIN)
        request = {
            "user": ADMIN,
            "ssh_public_key": public_line(keys.ssh_public_blob),
            "tls_csr": keys.tls_csr,
            "ttl": ADMIN_LIFE,
        }
        answer = client.request("POST", "/v1/sign", request)
    proxy = format_address(*config.proxy.listen)
    identity = user_identity.from_login(answer, proxy=proxy, ssh_key=keys.ssh_key, tls_key=keys.tls_key)
    user_identity.save(path, identity)
    return path


def _ready(
    config: Config, answers: dict[str, dict[str, Any]], supervisor: Supervisor, identity: Path
) -> dict[str, object]:
    with AuthClient(api_socket(config)) as client:
        pins = client.request("GET", "/v1/status").get("ca_pins")
    if not isinstance(pins, list) or not pins:
        raise OperatorError("auth has no CA pin")
    listening = answers["node"].get("listen") or [""]
    return {
        "proxy": answers["proxy"]["address"],
        "auth": answers["auth"]["address"],
        "node": listening[0] if isinstance(listening, list) else listening,
        "ca_pin": pins[0],
        "nodename": nodename(config),
        "login": person(),
        "pids": {name: role.pid for name, role in supervisor.roles.items()},
        "admin_identity": str(identity),
    }


def _next_steps(ready: dict[str, object], path: Path) -> list[str]:
    proxy, node, login = ready["proxy"], ready["nodename"], ready["login"]
    identity = ready["admin_identity"]
    return [
        f"tinyport serves at {proxy}; Ctrl-C stops it.",
        "",
        "A shell on this machine, through the cluster:",
        f"  tsh -i {identity} --proxy {proxy} ssh {login}@{node}",
        "",
        "A user of your own, who accepts the invitation and logs in:",
        f"  tctl -c {path} users add alice --logins {login} --roles access",
        f"  tsh login --proxy {proxy} --user alice --ca-pin {ready['ca_pin']}",
        "",
        "Another device:",
        f"  tctl -c {path} tokens add --type node",
    ]
