"""Forwardings: what ``-L``, ``-R`` and ``-D`` say, and setting them up on a connection."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinyport.client.engine import as_ours
from tinyport.core.errors import AccessDenied, OperatorError, Unavailable
from tinyport.core.names import format_address, printable
from tinyport.host.console import print_error

if TYPE_CHECKING:
    import asyncssh

_FORMS = {
    "L": "[BIND:]PORT:HOST:HOSTPORT, or paths of unix sockets for either end",
    "R": "[BIND:]PORT:HOST:HOSTPORT, or paths of unix sockets for either end",
    "D": "[BIND:]PORT",
}


@dataclass(frozen=True)
class End:
    """One end of a forwarding: ``path`` of a unix socket, or ``host`` and ``port``."""

    host: str = ""
    port: int = 0
    path: str | None = None

    def __str__(self) -> str:
        return printable(self.path, 200) if self.path is not None else format_address(self.host or "*", self.port)


@dataclass(frozen=True)
class Forward:
    """``kind``: "L", "R" or "D". ``target`` is None for "D", which is a SOCKS server."""

    kind: str
    listen: End
    target: End | None

    def __str__(self) -> str:
        return f"-{self.kind} {self.listen}" + (f" to {self.target}" if self.target is not None else "")


def parse_forward(kind: str, text: str) -> Forward:
    """What was given to -L, -R or -D. OperatorError (wrong usage) when it is not of its form."""
    fields = _fields(text)
    try:
        if kind == "D":
            if len(fields) not in (1, 2):
                raise ValueError(text)
            return Forward(kind, _listen(fields), None)
        if not fields or len(fields) > 4:
            raise ValueError(text)
        # The target is a path, or the last two fields; what is before them listens.
        rest, target = _target(fields)
        return Forward(kind, _listen(rest), target)
    except ValueError:
        raise OperatorError(
            f"-{kind} {printable(text, 200)} is not a forwarding", hint=f"write {_FORMS[kind]}", code="usage"
        ) from None


def _fields(text: str) -> list[str]:
    """Split at colons that are not in brackets: ``[::1]:80:host:80`` → four fields."""
    fields, depth, current = [], 0, ""
    for char in text:
        if char == "[" and not current:
            depth += 1
        elif char == "]" and depth:
            depth -= 1
        elif char == ":" and not depth:
            fields.append(current)
            current = ""
        else:
            current += char
    return [*fields, current]


def _target(fields: list[str]) -> tuple[list[str], End]:
    if fields[-1].startswith("/"):
        return fields[:-1], End(path=fields[-1])
    if len(fields) < 3 or not fields[-2]:
        raise ValueError(fields)
    return fields[:-2], End(host=fields[-2], port=_port(fields[-1], lowest=1))


def _listen(fields: list[str]) -> End:
    if len(fields) == 1 and fields[0].startswith("/"):
        return End(path=fields[0])
    if len(fields) == 1:
        # As ssh without GatewayPorts: for this machine only.
        return End(host="localhost", port=_port(fields[0]))
    if len(fields) == 2:
        return End(host="" if fields[0] in ("", "*") else fields[0], port=_port(fields[1]))
    raise ValueError(fields)


def _port(text: str, *, lowest: int = 0) -> int:
    if not text.isascii() or not text.isdigit() or not lowest <= int(text[:6]) <= 65535:
        raise ValueError(text)
    return int(text)


def tell_refusals(connection: asyncssh.SSHClientConnection) -> None:
    """Say on standard error when the node will not open a forwarded connection: asyncssh only closes the local one,
    and somebody would look for the fault in the wrong place.
    """
    import asyncssh

    def telling(opening: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def opened(*words: Any, **options: Any) -> Any:
            try:
                return await opening(*words, **options)
            except asyncssh.ChannelOpenError as error:
                print_error(f"tsh: error: forwarding: open failed: {printable(error.reason, 300)}")
                raise

        return opened

    wrapped: Any = connection
    wrapped.create_connection = telling(connection.create_connection)
    wrapped.create_unix_connection = telling(connection.create_unix_connection)


async def set_up(connection: asyncssh.SSHClientConnection, forward: Forward) -> None:
    """Start one forwarding. Unavailable when this machine cannot listen, AccessDenied when the node will not."""
    import asyncssh

    try:
        listener = await _start(connection, forward)
    except OSError as error:
        raise Unavailable(f"cannot listen for {forward}: {(error.strerror or str(error)).lower()}") from None
    except asyncssh.ChannelListenError as error:
        raise AccessDenied(f"the node refused {forward}", detail=str(error)) from None
    except asyncssh.Error as error:
        raise as_ours(error, "the node") from None
    if forward.kind == "R" and forward.listen.path is None and forward.listen.port == 0:
        # ssh's words: scripts look for them.
        print(f"Allocated port {listener.get_port()} for remote forward to {forward.target}", file=sys.stderr)


async def _start(connection: asyncssh.SSHClientConnection, forward: Forward) -> asyncssh.SSHListener:
    listen, target = forward.listen, forward.target
    if target is None:
        return await connection.forward_socks(listen.host, listen.port)
    local = forward.kind == "L"
    if listen.path is None and target.path is None:
        ports = connection.forward_local_port if local else connection.forward_remote_port
        return await ports(listen.host, listen.port, target.host, target.port)
    if listen.path is None:
        assert target.path is not None
        to_path = connection.forward_local_port_to_path if local else connection.forward_remote_port_to_path
        return await to_path(listen.host, listen.port, target.path)
    if target.path is None:
        from_path = connection.forward_local_path_to_port if local else connection.forward_remote_path_to_port
        return await from_path(listen.path, target.host, target.port)
    paths = connection.forward_local_path if local else connection.forward_remote_path
    return await paths(listen.path, target.path)
