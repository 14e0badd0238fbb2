"""tsh: what each command runs. Everything else is loaded by the command that needs it."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence

from tinyport.client.arguments import build_parser, command_of
from tinyport.host.console import CommandLine, Run
from tinyport.host.console import main as run_program


def _signup(args: argparse.Namespace) -> int:
    from tinyport.client.signup import signup

    return signup(args)


def _login(args: argparse.Namespace) -> int:
    from tinyport.client.login import login

    return login(args)


def _logout(args: argparse.Namespace) -> int:
    from tinyport.client.login import logout

    return logout(args)


def _status(args: argparse.Namespace) -> int:
    from tinyport.client.login import status

    return status(args)


def _ls(args: argparse.Namespace) -> int:
    from tinyport.client.listing import run

    return run(args)


def _ssh(args: argparse.Namespace) -> int:
    from tinyport.client.ssh import run

    return run(args)


def _scp(args: argparse.Namespace) -> int:
    from tinyport.client.scp import run

    return run(args)


def _run(args: argparse.Namespace) -> int:
    from tinyport.client.fleet_run import run

    return run(args)


def _config(args: argparse.Namespace) -> int:
    from tinyport.client.ssh_config import run

    return run(args)


def _proxy_ssh(args: argparse.Namespace) -> int:
    from tinyport.client.proxy_ssh import run

    return run(args)


def _sessions(args: argparse.Namespace) -> int:
    from tinyport.client.sessions import run

    return run(args)


def _join(args: argparse.Namespace) -> int:
    from tinyport.client.join import run

    return run(args)


def _play(args: argparse.Namespace) -> int:
    from tinyport.client.play import run

    return run(args)


def _recordings_ls(args: argparse.Namespace) -> int:
    from tinyport.client.recordings import ls

    return ls(args)


def _recordings_export(args: argparse.Namespace) -> int:
    from tinyport.client.recordings import export

    return export(args)


def _mfa_add(args: argparse.Namespace) -> int:
    from tinyport.client.factors import add

    return add(args)


def _mfa_ls(args: argparse.Namespace) -> int:
    from tinyport.client.factors import ls

    return ls(args)


def _mfa_rm(args: argparse.Namespace) -> int:
    from tinyport.client.factors import rm

    return rm(args)


def _clusters(args: argparse.Namespace) -> int:
    from tinyport.client.login import clusters

    return clusters(args)


def _completion(args: argparse.Namespace) -> int:
    from tinyport.client.complete import OFFERS
    from tinyport.host.console_completion import completion_script

    print(completion_script(parser(), args.shell, OFFERS), end="")
    return 0


def _complete(args: argparse.Namespace) -> int:
    from tinyport.client.complete import run

    return run(args)


def _man(args: argparse.Namespace) -> int:
    from tinyport.client.arguments import ENVIRONMENT, FILES, SEE_ALSO
    from tinyport.host.console_man import man_page

    print(man_page(parser(), environment=ENVIRONMENT, files=FILES, see_also=SEE_ALSO), end="")
    return 0


def _version(args: argparse.Namespace) -> int:
    from tinyport.core.version import VERSION
    from tinyport.host.console import emit

    emit(args, {"version": VERSION}, lambda: [f"tsh {VERSION}"])
    return 0


RUNS: dict[str, Run] = {
    "signup": _signup,
    "login": _login,
    "logout": _logout,
    "status": _status,
    "ls": _ls,
    "ssh": _ssh,
    "scp": _scp,
    "run": _run,
    "config": _config,
    "proxy ssh": _proxy_ssh,
    "sessions": _sessions,
    "join": _join,
    "play": _play,
    "recordings ls": _recordings_ls,
    "recordings export": _recordings_export,
    "mfa add": _mfa_add,
    "mfa ls": _mfa_ls,
    "mfa rm": _mfa_rm,
    "clusters": _clusters,
    "completion": _completion,
    "version": _version,
    "man": _man,
    "complete": _complete,
}


def parser(only: str | None = None) -> CommandLine:
    """The command line of tsh, all of it or one command."""
    return build_parser(RUNS, only)


def main(argv: Sequence[str] | None = None) -> int:
    """Run tsh; → its exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    return run_program("tsh", functools.partial(parser, command_of(words)), words)
