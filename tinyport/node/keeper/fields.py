"""Taking fields out of a worker's message: the right type and size, or PeerError, which ends the worker."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from tinyport.core.errors import PeerError
from tinyport.node.session.bounds import MAX_COMMAND, MAX_ENVIRONMENT
from tinyport.node.session.plan import Asked, Terminal

MAX_MODES = 128


def _wrong(name: str) -> PeerError:
    return PeerError(f"a worker's message has a wrong {name}")


def text(message: Mapping[str, object], name: str, limit: int = 256) -> str:
    value = message.get(name)
    if not isinstance(value, str) or len(value) > limit:
        raise _wrong(name)
    return value


def number(message: Mapping[str, object], name: str, limit: int = 2**31) -> int:
    value = message.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
        raise _wrong(name)
    return value


def data(message: Mapping[str, object], name: str, limit: int = 128 * 1024) -> bytes:
    """Base64 text → bytes."""
    value = message.get(name)
    if not isinstance(value, str) or len(value) > limit * 4 // 3 + 4:
        raise _wrong(name)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise _wrong(name) from None


def asked(message: Mapping[str, object]) -> Asked:
    """The session of an ``open`` message."""
    kind = text(message, "kind", 16)
    return Asked(
        kind=kind,
        command=data(message, "command", MAX_COMMAND) if kind == "exec" else b"",
        subsystem=text(message, "subsystem", 64) if kind == "subsystem" else "",
        terminal=_terminal(message.get("pty")),
        environment=_environment(message.get("env", {})),
    )


def _terminal(value: object) -> Terminal | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _wrong("pty")
    modes = value.get("modes")
    if not isinstance(modes, dict) or len(modes) > MAX_MODES:
        raise _wrong("pty")
    opcodes: dict[int, int] = {}
    for opcode, setting in modes.items():
        # JSON's keys are texts.
        if not (opcode.isascii() and opcode.isdigit() and len(opcode) <= 3):
            raise _wrong("pty")
        opcodes[int(opcode)] = number(modes, opcode, 2**32)
        del setting
    term = text(value, "term", 64)
    if not term.isascii() or not (term.isprintable() or not term):
        raise _wrong("pty")
    return Terminal(
        term=term,
        columns=number(value, "columns", 2**32),
        rows=number(value, "rows", 2**32),
        width=number(value, "width", 2**32),
        height=number(value, "height", 2**32),
        modes=opcodes,
    )


def _environment(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_ENVIRONMENT:
        raise _wrong("env")
    if not all(isinstance(item, str) and len(item) <= 4096 and len(name) <= 256 for name, item in value.items()):
        raise _wrong("env")
    return value
