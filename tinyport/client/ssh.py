"""``tsh ssh``: a shell or a command on a node."""

from __future__ import annotations

import argparse
import asyncio
import fnmatch
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from tinyport.client.engine import Wish, connected
from tinyport.client.factors import dialled
from tinyport.client.forward import Forward, parse_forward, set_up, tell_refusals
from tinyport.client.session import LOST, Session, SessionWish
from tinyport.client.ssh_options import Options, parse_options
from tinyport.client.target import checked_login, default_login, split_target
from tinyport.client.terminal import environment_to_send, is_terminal
from tinyport.client.whoami import identity_of
from tinyport.core.errors import TinyportError
from tinyport.core.names import printable
from tinyport.host.console import UsageError, report

if TYPE_CHECKING:
    import asyncssh


def run(args: argparse.Namespace) -> int:
    """The remote status; 255 for everything that kept us from one, as ssh does."""
    options = parse_options(args.option)
    forwards = [parse_forward(kind, text) for kind, text in args.forwards]
    try:
        identity = identity_of(args)
        login, target = split_target(args.target)
        wish = Wish(
            target=target,
            login=checked_login(args.login or login or options.user or default_login(identity)),
            forward_agent=args.forward_agent or options.forward_agent,
            keepalive=(options.keepalive_interval, options.keepalive_count),
        )
        session = _session_wish(args, options)
        if args.cluster and args.cluster != identity.cluster:
            from tinyport.client.elsewhere import connected_elsewhere

            return asyncio.run(talk(connected_elsewhere(identity, wish, args.cluster), session, forwards, options))
        identity, (way,) = dialled(identity, [wish])
        return asyncio.run(talk(connected(identity, wish, way), session, forwards, options))
    except UsageError:
        raise
    except (TinyportError, OSError) as error:
        report("tsh", error, debug=args.debug)
        return LOST
    except KeyboardInterrupt:
        return LOST


def _session_wish(args: argparse.Namespace, options: Options) -> SessionWish | None:
    """None for -N: no session at all."""
    if args.no_command:
        return None
    # As ssh: the words are joined by spaces, and the remote shell takes them apart again.
    command = " ".join(args.command) if args.command else None
    pty = command is None and is_terminal(0)
    if options.request_pty is not None:
        pty = options.request_pty
    if args.tty is not None:
        pty = args.tty
    return SessionWish(
        command=command,
        pty=pty,
        environment=_environment(options, os.environ),
        escape=options.escape,
        # As ssh: without a display there is nothing to forward.
        x11=(args.forward_x11 or options.forward_x11) and bool(os.environ.get("DISPLAY")),
    )


def _environment(options: Options, environment: Mapping[str, str]) -> dict[str, str]:
    sent = environment_to_send(environment)
    for pattern in options.send_env:
        sent.update((name, value) for name, value in environment.items() if fnmatch.fnmatchcase(name, pattern))
    return {**sent, **options.set_env}


async def talk(
    connecting: AbstractAsyncContextManager[asyncssh.SSHClientConnection],
    session: SessionWish | None,
    forwards: list[Forward],
    options: Options,
) -> int:
    async with connecting as connection:
        if forwards:
            tell_refusals(connection)
        for forward in forwards:
            try:
                await set_up(connection, forward)
            except TinyportError as error:
                if options.exit_on_forward_failure or session is None:
                    raise
                report("tsh", error)
        if session is None:
            return await _stay(connection)
        return await Session(session, asyncio.get_running_loop()).run(connection)


async def _stay(connection: asyncssh.SSHClientConnection) -> int:
    """-N: until a signal or the end of the connection."""
    import signal

    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    ending = {loop.create_task(told.wait()), loop.create_task(connection.wait_closed())}
    _, left = await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    if not told.is_set():
        # What the node said as it left (link.parting_words), for whoever has no session in which to read it.
        parting = printable(str(getattr(connection, "parting", "")), 500)
        print(f"tsh: error: {parting or 'the connection was lost'}", file=sys.stderr)
    return LOST
