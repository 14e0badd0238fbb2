"""``tinyport quickstart``: a cluster of one, on this machine, in one command."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pwd
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyport.admin import config_file
from tinyport.admin.local_cluster import LocalCluster, listening_address
from tinyport.admin.reread import again
from tinyport.admin.role_process import name_process
from tinyport.admin.supervisor import Stopped, Supervisor, pids
from tinyport.admin.tctl_auth import sign_user
from tinyport.core.config import PROXY_PORT, Config
from tinyport.core.errors import OperatorError, TinyportError
from tinyport.core.names import check_login
from tinyport.host import user_identity
from tinyport.host.files import private_folder, read_limited, write_private
from tinyport.host.logging_line import Log
from tinyport.host.machine import LOOPBACK, api_socket, nodename
from tinyport.host.tls import certificate_fingerprint
from tinyport.link.api import AuthClient

CLUSTER_NAME = "tinyport.local"
ADMIN = "admin"
ADMIN_LIFE = 12 * 3600
# A new identity well before the old one ends, for a demonstration that is left running.
ADMIN_RENEWAL = ADMIN_LIFE / 2
DEFAULT_LISTEN = f"{LOOPBACK}:{PROXY_PORT}"
ROLES = ("auth", "proxy", "node")


def default_folder() -> Path:
    """Where quickstart keeps its cluster when it is not told: with the person's other data, root's with the
    system's.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/tinyport-quickstart")
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "tinyport"


def run(args: argparse.Namespace) -> int:
    """Start everything, say what to type next, serve until SIGTERM."""
    folder = Path(args.data_dir or default_folder()).absolute()
    private_folder(folder)
    lock = _only_one(folder)
    if args.ready_file:
        # Whoever waits for it must not find the one of the last time.
        Path(args.ready_file).unlink(missing_ok=True)
    path = folder / "tinyport.toml"
    document = _document(path, folder, args.listen)
    level = "debug" if args.debug else "warning"
    document["tinyport"] = {"log": {"level": level}, **document.get("tinyport", {})}
    for role in ROLES:
        document[role] = {**document.get(role, {}), "enabled": True}
    name_process("tinyport")
    supervisor = Supervisor(Log("tinyport", level), adopts=True)
    supervisor.install_signals()
    try:
        _serve(LocalCluster(document, str(path), supervisor, again(path, args)), supervisor, folder, args.ready_file)
    except Stopped:
        pass
    finally:
        supervisor.stop()
        os.close(lock)
    return 0


def _only_one(folder: Path) -> int:
    """The folder's lock, held until the descriptor is closed. OperatorError when another quickstart has it."""
    descriptor = os.open(folder / "quickstart.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OperatorError(
            f"another quickstart is running in {folder}", hint="stop it, or choose another --data-dir"
        ) from None
    return descriptor


def _serve(cluster: LocalCluster, supervisor: Supervisor, folder: Path, ready_file: str | None) -> None:
    answers = cluster.start()
    config = cluster.config
    cluster.wait_online(nodename(config))
    with AuthClient(api_socket(folder)) as client:
        identity = _administrator(client, config, folder)
        ready = _ready(client, config, answers)
    ready = {**ready, "pids": pids(supervisor.roles), "admin_identity": str(identity)}
    if ready_file:
        write_private(ready_file, json.dumps(ready, indent=1).encode() + b"\n")
    lines = [*next_steps(ready, folder / "tinyport.toml"), *_in_a_browser(str(ready["proxy"]), folder)]
    print("\n".join(lines), flush=True)
    renewal = time.monotonic() + ADMIN_RENEWAL
    while True:
        supervisor.pause(60.0)
        if time.monotonic() > renewal:
            renewal = _renewed(config, folder)


def _renewed(config: Config, folder: Path) -> float:
    """A new identity file for the administrator → when to make the next one (monotonic seconds)."""
    try:
        with AuthClient(api_socket(folder)) as client:
            _administrator(client, config, folder)
    except TinyportError:
        # Auth is being started again, say; the one that is there is good for some hours yet.
        return time.monotonic() + 300.0
    return time.monotonic() + ADMIN_RENEWAL


def _document(path: Path, folder: Path, listen: str | None) -> dict[str, Any]:
    """The configuration: written at the first time, read ever after; ``listen`` puts the proxy elsewhere this time."""
    if not path.exists():
        address = listening_address(listen or DEFAULT_LISTEN, PROXY_PORT, None)
        write_private(path, first_configuration(folder, address).encode())
        return config_file.read_document(path)
    document = config_file.read_document(path)
    if listen is not None:
        proxy = dict(document.get("proxy", {}))
        address = listening_address(listen, PROXY_PORT, str(proxy.get("listen", "")) or None)
        document["proxy"] = {**proxy, "listen": address, "public_addr": [address]}
    return document


def first_configuration(folder: Path, proxy: str) -> str:
    """The file that quickstart starts from and ``tctl -c`` reads: everything on loopback, so that nobody on the network
    meets a cluster whose owner has just begun to read about it.
    """
    # A JSON string is a TOML basic string.
    quoted = json.dumps
    return f"""# Written by "tinyport quickstart", which reads it when it is run again. "tctl -c" reads it, too.
[tinyport]
data_dir = {quoted(str(folder))}

[auth]
enabled = true
cluster_name = {quoted(CLUSTER_NAME)}
listen = {quoted(f"{LOOPBACK}:0")}

[proxy]
enabled = true
listen = {quoted(proxy)}
public_addr = [{quoted(proxy)}]

[node]
enabled = true
listen = [{quoted(f"{LOOPBACK}:0")}]
"""


def person(environment: Mapping[str, str]) -> str:
    """The login of whoever runs this: behind sudo, the person who typed it. OperatorError when it has no name."""
    try:
        if os.geteuid() == 0 and environment.get("SUDO_USER"):
            return check_login(pwd.getpwnam(environment["SUDO_USER"]).pw_name)
    except KeyError:
        pass
    try:
        return check_login(pwd.getpwuid(os.geteuid()).pw_name)
    except KeyError:
        raise OperatorError(f"user {os.geteuid()} has no name on this machine") from None


def _administrator(client: AuthClient, config: Config, folder: Path) -> Path:
    """Make the first user unless there is one, and a fresh identity file for it."""
    path = folder / "admin-identity.json"
    try:
        body = {"name": ADMIN, "roles": ["admin", "access"], "logins": [person(os.environ)]}
        client.request("POST", "/v1/users", body)
    except TinyportError as error:
        if error.code != "exists":
            raise
    user_identity.save(path, sign_user(client, ADMIN, ADMIN_LIFE, config.proxy.public_addr[0]))
    return path


def _ready(client: AuthClient, config: Config, answers: dict[str, dict[str, Any]]) -> dict[str, object]:
    pins = client.request("GET", "/v1/status").get("ca_pins")
    if not isinstance(pins, list) or not pins:
        raise OperatorError("auth has no CA pin")
    listening = answers["node"].get("listen") or [""]
    return {
        "proxy": answers["proxy"]["address"],
        "auth": answers["auth"]["address"],
        "node": listening[0],
        "ca_pin": pins[0],
        "nodename": nodename(config),
        "login": person(os.environ),
    }


def _in_a_browser(proxy: str, folder: Path) -> list[str]:
    """Where the page is, and what to compare before one believes it. Nothing when the certificate cannot be read."""
    try:
        pem = read_limited(folder / "proxy" / "web.pem", 64 * 1024).decode("ascii", "replace")
        fingerprint = certificate_fingerprint(pem)
    except (OSError, ValueError, OperatorError):
        return []
    return [
        "",
        f"In a browser: the address that an invitation has, or https://{proxy}/. The certificate is self-made; its",
        "SHA-256 fingerprint, to compare with what the browser shows, is",
        f"  {fingerprint}",
    ]


def next_steps(ready: Mapping[str, object], path: Path) -> list[str]:
    """What to type next, ready to be pasted."""
    proxy, node, login = (str(ready[name]) for name in ("proxy", "nodename", "login"))
    identity = shlex.quote(str(ready["admin_identity"]))
    tctl = f"tctl -c {shlex.quote(str(path))}"
    return [
        f"tinyport serves at {proxy}; Ctrl-C stops it. In another terminal:",
        "",
        "A shell on this machine, through the cluster:",
        f"  tsh -i {identity} ssh {login}@{node}",
        "",
        "What there is:",
        f"  {tctl} status",
        f"  {tctl} nodes ls",
        "",
        'A user, who accepts the invitation with the "tsh signup" line that this prints, logs in, and has a shell:',
        f"  {tctl} users add alice --logins {login} --roles access",
        f"  tsh login --proxy {proxy} --user alice --ca-pin {ready['ca_pin']}",
        f"  tsh ssh {login}@{node}",
        "",
        "Another device (the token's line is run there):",
        f"  {tctl} tokens add --type node",
    ]
