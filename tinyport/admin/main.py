"""The ``tinyport`` command: what runs on servers and devices."""

from __future__ import annotations

import argparse
import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinyport.admin import config_file
from tinyport.core.config import is_pin
from tinyport.core.errors import ConfigError, OperatorError, PeerError
from tinyport.core.labels import parse_pairs
from tinyport.host.console import CommandLine, emit, output_options
from tinyport.host.console import main as run_command_line

ROLES = ("auth", "proxy", "node")
#: A token on the command line is a text or a file; a file's name has a slash, a token never does.
MAX_STATUS = 256 * 1024


def build_parser() -> CommandLine:
    parser = CommandLine(
        "tinyport",
        description="SSH access for fleets of small machines: the daemon of devices and servers.",
        examples=[
            "tinyport quickstart",
            "tinyport start --roles=node --server port.example.com:443 --token ID.SECRET --ca-pin sha256:...",
            "tinyport check-config /etc/tinyport/tinyport.toml",
        ],
    )
    _add_start(parser)
    _add_quickstart(parser)
    _add_configure(parser)
    check = parser.command(
        "check-config",
        _check_config,
        help="check a configuration file",
        description="Name every problem of a configuration file: file, key, what was read, what is allowed.",
        examples=["tinyport check-config /etc/tinyport/tinyport.toml"],
    )
    check.add_argument("file", metavar="FILE")
    status = parser.command(
        "status",
        _status,
        help="this session, or this machine's daemon",
        description="Inside a session: who you are and where. Outside: the node daemon of this machine.",
        examples=["tinyport status", "tinyport status --format json"],
        parents=[output_options()],
    )
    _add_config_options(status)
    parser.command("version", _version, help="show the version", parents=[output_options()])
    _add_completion(parser)
    return parser


def _add_config_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", metavar="FILE", help="configuration file (default: %(default)s)")
    parser.set_defaults(config=None)
    parser.add_argument("--data-dir", metavar="DIR", help="where everything is kept")


def _add_start(parser: CommandLine) -> None:
    start = parser.command(
        "start",
        _start,
        help="run the roles of this machine",
        description="Run auth, proxy, node, or several of them, each as a process tree of its own.",
        examples=[
            "tinyport start",
            "tinyport start --roles=auth,proxy -c /etc/tinyport/tinyport.toml",
            "tinyport start --roles=node --server port.example.com:443 --token ID.SECRET --ca-pin sha256:...",
        ],
    )
    _add_config_options(start)
    _add_role_options(start)
    start.add_argument("--insecure-no-ca-pin", action="store_true", help="join without knowing whom (tests only)")
    start.add_argument("-d", "--debug", action="store_true", help="log what happens, show tracebacks")


def _add_role_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--roles", metavar="R,...", help="which of auth, proxy, node (default: those enabled)")
    parser.add_argument("--server", metavar="HOST:PORT", help="the cluster's proxy (or auth)")
    parser.add_argument("--token", metavar="VALUE|FILE", help="join token, or a file that holds it")
    parser.add_argument("--ca-pin", metavar="sha256:...", action="append", help="the cluster's CA pin")
    parser.add_argument("--nodename", metavar="N", help="this machine's name in the cluster")
    parser.add_argument("--labels", metavar="k=v,...", help="labels that are shown (they never grant anything)")


def _add_quickstart(parser: CommandLine) -> None:
    quick = parser.command(
        "quickstart",
        _quickstart,
        help="a whole cluster on this machine",
        description="Start auth, proxy and a node here, make the first administrator, say what to type next.",
        examples=["tinyport quickstart", "tinyport quickstart --data-dir ./cluster --listen 127.0.0.1:0"],
    )
    quick.add_argument("--data-dir", metavar="DIR", help="where the cluster is kept")
    quick.add_argument("--listen", metavar="H:P", help="the proxy's address (default 127.0.0.1:3080; port 0: any)")
    quick.add_argument("--ready-file", metavar="FILE", help="written, as JSON, when everything serves")
    quick.add_argument("-d", "--debug", action="store_true", help="log what happens, show tracebacks")


def _add_configure(parser: CommandLine) -> None:
    configure = parser.command(
        "configure",
        _configure,
        help="write a configuration file",
        description="Write a commented tinyport.toml.",
        examples=["tinyport configure --roles node --server port.example.com:443 -o tinyport.toml"],
    )
    _add_role_options(configure)
    configure.add_argument("-o", "--output", metavar="FILE", help="where to write it (default: standard output)")


def _add_completion(parser: CommandLine) -> None:
    completion = parser.command(
        "completion",
        _completion,
        help="print a completion script",
        examples=["tinyport completion bash > /etc/bash_completion.d/tinyport"],
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))


# ------------------------------------------------------------------ start


def overridden(document: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The configuration with what the command line says put over it."""
    general = dict(document.get("tinyport", {}))
    for option, key in (("data_dir", "data_dir"), ("server", "server"), ("nodename", "nodename"), ("ca_pin", "ca_pin")):
        value = getattr(args, option, None)
        if value:
            general[key] = value
    if general.get("data_dir"):
        general["data_dir"] = os.path.abspath(general["data_dir"])
    if args.token:
        general["token"] = {"path": os.path.abspath(args.token)} if "/" in args.token else args.token
    if getattr(args, "debug", False):
        general["log"] = {**general.get("log", {}), "level": "debug"}
    changed = {**document, "tinyport": general}
    roles = _roles(args.roles) if args.roles else None
    if roles is not None:
        for role in ROLES:
            changed[role] = {**document.get(role, {}), "enabled": role in roles}
    if args.labels:
        pairs = parse_pairs(args.labels.split(","))
        node = dict(changed.get("node", {}))
        node["labels"] = {**node.get("labels", {}), **pairs}
        changed["node"] = node
    return changed


def _roles(text: str) -> tuple[str, ...]:
    wanted = [word for word in text.split(",") if word]
    unknown = [word for word in wanted if word not in ROLES]
    if unknown or not wanted:
        raise OperatorError(f"unknown role {','.join(unknown)!r}", hint="roles are auth, proxy, node", code="usage")
    return tuple(role for role in ROLES if role in wanted)


def _start(args: argparse.Namespace) -> int:
    from tinyport.admin.local_cluster import LocalCluster
    from tinyport.admin.supervisor import Supervisor
    from tinyport.host.logging_line import Log
    from tinyport.start import run_role

    path = config_file.chosen_path(args.config)
    source = str(path) if path is not None else "command line"
    document = overridden({} if path is None else config_file.read_document(path), args)
    config = config_file.check(document, source)
    roles = config.roles
    if not roles:
        raise OperatorError("no role is enabled", hint="give --roles=node, or enable roles in tinyport.toml")
    if len(roles) == 1:
        # Nothing to supervise: systemd or procd does that better, and a device's memory is dear.
        return run_role(roles[0], config, None, insecure_no_ca_pin=args.insecure_no_ca_pin)
    supervisor = Supervisor(Log("tinyport", config.tinyport.log_level, config.tinyport.log_format))
    supervisor.install_signals()
    try:
        LocalCluster(document, source, supervisor).start(roles, insecure_no_ca_pin=args.insecure_no_ca_pin)
        supervisor.watch()
    finally:
        supervisor.stop()
    return 0


def _quickstart(args: argparse.Namespace) -> int:
    from tinyport.admin import quickstart

    return quickstart.run(args)


# ------------------------------------------------------------------ configuration


def _configure(args: argparse.Namespace) -> int:
    from tinyport.admin.configure import commented_configuration

    roles = _roles(args.roles or "node")
    for pin in args.ca_pin or ():
        if not is_pin(pin):
            raise OperatorError(f"{pin!r} is not a CA pin", hint='a pin is "sha256:" and 64 hexadecimal digits')
    text = commented_configuration(roles, args)
    # What we write we must be able to read; a token file need not be there yet.
    config_file.check({**config_file.parse_toml(text, "tinyport.toml"), "tinyport": {}}, "tinyport.toml")
    if args.output is None:
        print(text, end="")
        return 0
    from tinyport.host.files import write_private

    if os.path.exists(args.output):
        raise OperatorError(f"{args.output} is there already", hint="move it away first")
    write_private(args.output, text.encode())
    return 0


def _check_config(args: argparse.Namespace) -> int:
    config = config_file.load(Path(args.file))
    print(f"{args.file}: good; roles: {', '.join(config.roles) or 'none'}")
    return 0


# ------------------------------------------------------------------ status


def _status(args: argparse.Namespace) -> int:
    if os.environ.get("TINYPORT_USER") and os.environ.get("SSH_CONNECTION"):
        return _session_status(args)
    path = config_file.chosen_path(args.config)
    folder = Path(args.data_dir or config_file.load(path).tinyport.data_dir)
    status = ask_monitor(folder / "node" / "monitor.sock")
    emit(args, status, lambda: [f"{key + ':':14}{_shown(value)}" for key, value in status.items()])
    return 0


def _session_status(args: argparse.Namespace) -> int:
    names = {"user": "TINYPORT_USER", "node": "TINYPORT_NODE", "session": "TINYPORT_SESSION", "from": "SSH_CONNECTION"}
    found = {name: os.environ[variable] for name, variable in names.items() if variable in os.environ}
    emit(args, found, lambda: [f"{key + ':':14}{_shown(value)}" for key, value in found.items()])
    return 0


def _shown(value: object) -> str:
    from tinyport.core.names import printable

    if isinstance(value, dict):
        return ", ".join(f"{printable(str(key))} {_shown(item)}" for key, item in value.items())
    return printable(str(value))


def ask_monitor(path: Path) -> dict[str, Any]:
    """The status of the node daemon that listens on ``path``. OperatorError when none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker:
        asker.settimeout(5.0)
        try:
            asker.connect(str(path))
            data = b""
            while len(data) < MAX_STATUS and (piece := asker.recv(65536)):
                data += piece
        except OSError as error:
            raise OperatorError(
                f"no node daemon answers at {path}: {error.strerror or error}",
                hint="is it running, and are you its user or root? See also -c and --data-dir",
            ) from None
    try:
        status = json.loads(data)
    except ValueError:
        status = None
    if not isinstance(status, dict):
        raise PeerError("the node daemon's answer cannot be read")
    return status


def _version(args: argparse.Namespace) -> int:
    from tinyport.core.version import VERSION

    emit(args, {"version": VERSION}, lambda: [f"tinyport {VERSION}"])
    return 0


def _completion(args: argparse.Namespace) -> int:
    from tinyport.host.console_completion import completion_script

    print(completion_script(build_parser(), args.shell), end="")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The program. Returns its exit status."""
    try:
        return run_command_line("tinyport", build_parser, argv)
    except ConfigError as error:
        raise SystemExit(str(error)) from None
