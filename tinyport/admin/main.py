"""The ``tinyport`` command: what runs on servers and devices. Commands are loaded when they are run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec

from tinyport.core.errors import OperatorError
from tinyport.host.console import CommandLine, Run, emit, output_options
from tinyport.host.console import main as run_command_line

_JOIN = "tinyport start --roles=node --server port.example.com:443 --token - --ca-pin sha256:..."


def _start(args: argparse.Namespace) -> int:
    from tinyport.admin.start_command import run

    return run(args)


def _quickstart(args: argparse.Namespace) -> int:
    if find_spec("tinyport.auth") is None:
        # OpenWrt's package.
        hint = '"tinyport start" joins this machine to a cluster'
        raise OperatorError("a node is all that this package has of a cluster", hint=hint)
    from tinyport.admin.quickstart import run

    return run(args)


def _configure(args: argparse.Namespace) -> int:
    from tinyport.admin.configure import run

    return run(args)


def _check_config(args: argparse.Namespace) -> int:
    from pathlib import Path

    from tinyport.admin import config_file

    config = config_file.load(Path(args.file))
    print(f"{args.file}: good; roles: {', '.join(config.roles) or 'none'}")
    return 0


def _install(args: argparse.Namespace) -> int:
    from tinyport.admin.install import run

    return run(args)


def _status(args: argparse.Namespace) -> int:
    from tinyport.admin.status_command import run

    return run(args)


def _version(args: argparse.Namespace) -> int:
    from tinyport.core.version import VERSION

    emit(args, {"version": VERSION}, lambda: [f"tinyport {VERSION}"])
    return 0


def _completion(args: argparse.Namespace) -> int:
    from tinyport.host.console_completion import completion_script

    print(completion_script(build_parser(), args.shell), end="")
    return 0


def build_parser() -> CommandLine:
    """The command line of tinyport."""
    parser = CommandLine(
        "tinyport",
        description="SSH access for fleets of small machines: the daemon of devices and servers.",
        examples=["tinyport quickstart", _JOIN, "tinyport check-config /etc/tinyport/tinyport.toml"],
    )
    start = parser.command(
        "start",
        _start,
        help="run the roles of this machine",
        description="Run auth, proxy, node, or several of them, each as a process tree of its own.",
        examples=["tinyport start", "tinyport start --roles=auth,proxy -c /etc/tinyport/tinyport.toml", _JOIN],
    )
    _where(start)
    _role_options(start, default="those enabled")
    start.add_argument("--insecure-no-ca-pin", action="store_true", help="join without knowing whom")
    _debug(start)
    _add_quickstart(parser)
    _add_configuration(parser)
    status = parser.command(
        "status",
        _status,
        help="this session, or this machine's node",
        description="Inside a session: user, session, node. Outside: the node daemon of this machine.",
        examples=["tinyport status", "tinyport status --format json"],
        parents=[output_options()],
    )
    _where(status)
    parser.command(
        "version", _version, help="print the version", examples=["tinyport version"], parents=[output_options()]
    )
    add_completion(parser, "tinyport", _completion)
    return parser


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="configuration file (default: TINYPORT_CONFIG, else /etc/tinyport/tinyport.toml if it is there)",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where everything is kept")


def _debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--debug", action="store_true", help="log what happens, show tracebacks")


def _role_options(parser: argparse.ArgumentParser, *, default: str) -> None:
    parser.add_argument("--roles", metavar="R,...", help=f"which of auth, proxy, node (default: {default})")
    parser.add_argument("--server", metavar="HOST:PORT", help="the cluster's proxy; for a proxy, auth")
    parser.add_argument(
        "--token", metavar="VALUE|FILE|-", help="join token, or a file that holds it; - reads it from standard input"
    )
    parser.add_argument("--ca-pin", metavar="sha256:...", action="append", help="the cluster's CA pin")
    parser.add_argument(
        "--diag-addr",
        metavar="HOST:PORT",
        help="serve /metrics, /healthz and /readyz of auth there, the proxy's on the next port",
    )
    parser.add_argument("--nodename", metavar="N", help="this machine's name in the cluster")
    parser.add_argument("--labels", metavar="k=v,...", help="labels that are shown; they never grant anything")


def _add_quickstart(parser: CommandLine) -> None:
    quick = parser.command(
        "quickstart",
        _quickstart,
        help="a whole cluster on this machine",
        description="Start auth, proxy and a node here, make the first administrator, say what to type next.",
        examples=["tinyport quickstart", "tinyport quickstart --data-dir ./cluster --listen 127.0.0.1:0"],
    )
    quick.add_argument("--data-dir", metavar="DIR", help="where the cluster is kept (it is found again there)")
    quick.add_argument(
        "--listen", metavar="H:P", help="the proxy's address (default 127.0.0.1:3080; port 0: a free one)"
    )
    quick.add_argument("--ready-file", metavar="FILE", help="written, as JSON, when everything serves")
    _debug(quick)


def _add_configuration(parser: CommandLine) -> None:
    configure = parser.command(
        "configure",
        _configure,
        help="write a configuration file",
        description="Write a commented tinyport.toml for this machine.",
        examples=[
            "tinyport configure --roles auth,proxy --cluster-name farm.example --public-addr port.example.com:443",
            "tinyport configure --roles node --server port.example.com:443 --token - --ca-pin sha256:... "
            "-o /etc/tinyport/tinyport.toml",
        ],
    )
    _role_options(configure, default="node")
    configure.add_argument("--data-dir", metavar="DIR", help="where everything is kept")
    configure.add_argument("--cluster-name", metavar="C", help="auth: the cluster's name, which cannot change later")
    configure.add_argument("--public-addr", metavar="H:P", help="proxy: where people and nodes reach it")
    configure.add_argument("-o", "--output", metavar="FILE", help="where to write it (default: standard output)")
    check = parser.command(
        "check-config",
        _check_config,
        help="check a configuration file",
        description="Name every problem of a configuration file: file, key, what was read, what is allowed.",
        examples=["tinyport check-config /etc/tinyport/tinyport.toml"],
    )
    check.add_argument("file", metavar="FILE", help="tinyport.toml")
    install = parser.command(
        "install",
        _install,
        help="install the service of this machine (systemd, procd)",
        description="Write the systemd units of the roles that the configuration enables, enable and start them. With "
        "--replace-sshd the node takes sshd's port, too, but only when this is run in a session of the node, which "
        "proves that a login through tinyport works; before that it says what to do.",
        examples=["tinyport install", "tinyport install --replace-sshd", "tinyport install --print"],
    )
    install.add_argument("-c", "--config", metavar="FILE", help="configuration file (default: as for start)")
    install.add_argument(
        "--replace-sshd", action="store_true", help="take sshd's port over, once a login through tinyport has worked"
    )
    # What --replace-sshd runs apart from the session that proved it.
    install.add_argument("--now", action="store_true", help=argparse.SUPPRESS)
    install.add_argument("--print", action="store_true", dest="show", help="print the units instead")


def add_completion(parser: CommandLine, program: str, run: Run) -> None:
    """``completion SHELL``, the same for tinyport and tctl."""
    completion = parser.command(
        "completion",
        run,
        help="print the completion script of a shell",
        examples=[f'eval "$({program} completion bash)"'],
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")


def main(argv: Sequence[str] | None = None) -> int:
    """The program. Returns its exit status."""
    return run_command_line("tinyport", build_parser, argv)
