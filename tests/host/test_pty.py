"""Terminal modes as the client asks for them, each opcode of RFC 4254 section 8 as stty(1) then names it."""

from __future__ import annotations

import os
import subprocess
import termios
from collections.abc import Iterator

import pytest

from tinyport.host import pty

CHARACTERS = {1: "intr", 2: "quit", 3: "erase", 4: "kill", 5: "eof", 6: "eol", 7: "eol2", 8: "start", 9: "stop"}
CHARACTERS |= {10: "susp", 12: "rprnt", 13: "werase", 14: "lnext", 18: "discard"}
FLAGS = {30: "ignpar", 31: "parmrk", 32: "inpck", 33: "istrip", 34: "inlcr", 35: "igncr", 36: "icrnl", 37: "iuclc"}
FLAGS |= {38: "ixon", 39: "ixany", 40: "ixoff", 41: "imaxbel", 42: "iutf8", 50: "isig", 51: "icanon", 52: "xcase"}
FLAGS |= {53: "echo", 54: "echoe", 55: "echok", 56: "echonl", 57: "noflsh", 58: "tostop", 59: "iexten"}
FLAGS |= {60: "echoctl", 61: "echoke", 70: "opost", 71: "olcuc", 72: "onlcr", 73: "ocrnl", 74: "onocr", 75: "onlret"}


@pytest.fixture
def slave() -> Iterator[int]:
    master, slave, _ = pty.open_pair(None)
    yield slave
    os.close(master)
    os.close(slave)


def shown(slave: int) -> list[str]:
    """What ``stty -a`` says of it, word by word, ``intr = ^C`` being one."""
    done = subprocess.run(["stty", "-a"], stdin=slave, capture_output=True, text=True, check=True)
    return [word for part in done.stdout.split(";") for word in ([part.strip()] if "=" in part else part.split())]


@pytest.mark.parametrize("opcode", CHARACTERS)
def test_characters(slave: int, opcode: int) -> None:
    name = CHARACTERS[opcode]
    pty.apply_modes(slave, {opcode: 5})
    assert f"{name} = ^E" in shown(slave)
    # 255: there is no such character.
    pty.apply_modes(slave, {opcode: 255})
    assert f"{name} = <undef>" in shown(slave)


@pytest.mark.parametrize("opcode", FLAGS)
def test_flags(slave: int, opcode: int) -> None:
    name = FLAGS[opcode]
    pty.apply_modes(slave, {opcode: 1})
    assert name in shown(slave)
    pty.apply_modes(slave, {opcode: 0})
    assert f"-{name}" in shown(slave)


def test_what_stty_does_not_name(slave: int) -> None:
    """PENDIN: what is typed already is read anew. 90 to 93 a pty cannot have otherwise: it has 8 bits, no parity."""
    pty.apply_modes(slave, {62: 1})
    assert termios.tcgetattr(slave)[3] & 0o040000
    pty.apply_modes(slave, {62: 0, 90: 1, 92: 1, 93: 1})
    assert not termios.tcgetattr(slave)[3] & 0o040000
    assert {"cs8", "-parenb"} <= set(shown(slave))


@pytest.mark.parametrize("speed", [0, 300, 9600, 38400, 115200])
def test_speeds(slave: int, speed: int) -> None:
    pty.apply_modes(slave, {128: speed, 129: speed})
    assert f"speed {speed} baud" in " ".join(shown(slave))
