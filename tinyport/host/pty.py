"""Terminals for sessions: a pair owned by the user, its size, and the client's modes (RFC 4254 section 8)."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Mapping

GROUP = "/etc/group"
# termios(3): Python does not name these on every version.
_IUTF8, _IUCLC = 0o040000, 0o001000
_OLCUC = 0o000002
_XCASE, _PENDIN = 0o000004, 0o040000

# RFC 4254 section 8: opcode → index in c_cc. 11, 15 and 17 (dsusp, flush, status) do not exist on Linux.
_CHARACTERS = {
    1: termios.VINTR,
    2: termios.VQUIT,
    3: termios.VERASE,
    4: termios.VKILL,
    5: termios.VEOF,
    6: termios.VEOL,
    7: termios.VEOL2,
    8: termios.VSTART,
    9: termios.VSTOP,
    10: termios.VSUSP,
    12: termios.VREPRINT,
    13: termios.VWERASE,
    14: termios.VLNEXT,
    18: termios.VDISCARD,
}
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _ISPEED, _OSPEED, _CC = range(7)
_FLAGS = {
    30: (_IFLAG, termios.IGNPAR),
    31: (_IFLAG, termios.PARMRK),
    32: (_IFLAG, termios.INPCK),
    33: (_IFLAG, termios.ISTRIP),
    34: (_IFLAG, termios.INLCR),
    35: (_IFLAG, termios.IGNCR),
    36: (_IFLAG, termios.ICRNL),
    37: (_IFLAG, _IUCLC),
    38: (_IFLAG, termios.IXON),
    39: (_IFLAG, termios.IXANY),
    40: (_IFLAG, termios.IXOFF),
    41: (_IFLAG, termios.IMAXBEL),
    42: (_IFLAG, _IUTF8),  # RFC 8160
    50: (_LFLAG, termios.ISIG),
    51: (_LFLAG, termios.ICANON),
    52: (_LFLAG, _XCASE),
    53: (_LFLAG, termios.ECHO),
    54: (_LFLAG, termios.ECHOE),
    55: (_LFLAG, termios.ECHOK),
    56: (_LFLAG, termios.ECHONL),
    57: (_LFLAG, termios.NOFLSH),
    58: (_LFLAG, termios.TOSTOP),
    59: (_LFLAG, termios.IEXTEN),
    60: (_LFLAG, termios.ECHOCTL),
    61: (_LFLAG, termios.ECHOKE),
    62: (_LFLAG, _PENDIN),
    70: (_OFLAG, termios.OPOST),
    71: (_OFLAG, _OLCUC),
    72: (_OFLAG, termios.ONLCR),
    73: (_OFLAG, termios.OCRNL),
    74: (_OFLAG, termios.ONOCR),
    75: (_OFLAG, termios.ONLRET),
    92: (_CFLAG, termios.PARENB),
    93: (_CFLAG, termios.PARODD),
}
_CS7, _CS8 = 90, 91
_TTY_OP_ISPEED, _TTY_OP_OSPEED = 128, 129
_SPEEDS = {
    int(name[1:]): value
    for name, value in vars(termios).items()
    if name[0] == "B" and name[1:].isdigit() and isinstance(value, int)
}


def open_pair(owner: int | None) -> tuple[int, int, str]:
    """A new terminal: (master, slave, its path). ``owner``: the uid it is given to; None leaves it to whoever we are.

    Group tty and 0620, so that write(1) reaches it and nobody else reads it.
    """
    master, slave = os.openpty()
    try:
        path = os.ttyname(slave)
        if owner is not None:
            group = _tty_group()
            os.chown(slave, owner, -1 if group is None else group)
            os.chmod(slave, 0o600 if group is None else 0o620)
    except BaseException:
        os.close(master)
        os.close(slave)
        raise
    return master, slave, path


def _tty_group() -> int | None:
    """The group that terminals belong to. From the machine's own file: NSS may ask a directory, which may not answer,
    and everybody's sessions wait for us.
    """
    try:
        with open(GROUP, "rb", buffering=0) as file:
            lines = file.readall().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split(b":")
        if fields[0] == b"tty" and len(fields) > 2 and fields[2].isdigit():
            return int(fields[2])
    return None


def set_size(terminal: int, columns: int, rows: int, width: int = 0, height: int = 0) -> None:
    """Tell the terminal its size: characters, and pixels where known. The foreground group gets SIGWINCH."""
    sizes = [max(0, min(value, 0xFFFF)) for value in (rows, columns, width, height)]
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *sizes))


def apply_modes(terminal: int, modes: Mapping[int, int]) -> None:
    """Set what the client asked for; opcodes that are not known here are ignored, as the RFC says."""
    attributes = termios.tcgetattr(terminal)
    characters = list(attributes[_CC])
    for opcode, value in modes.items():
        if opcode in _CHARACTERS:
            # RFC 4254 section 8: 255 means that there is no such character; POSIX says 0 (_POSIX_VDISABLE).
            characters[_CHARACTERS[opcode]] = bytes((0 if value == 255 else value & 0xFF,))
        elif opcode in _FLAGS:
            index, flag = _FLAGS[opcode]
            attributes[index] = attributes[index] | flag if value else attributes[index] & ~flag
    if modes.get(_CS8):
        attributes[_CFLAG] = attributes[_CFLAG] & ~termios.CSIZE | termios.CS8
    elif modes.get(_CS7):
        attributes[_CFLAG] = attributes[_CFLAG] & ~termios.CSIZE | termios.CS7
    attributes[_ISPEED] = _SPEEDS.get(modes.get(_TTY_OP_ISPEED, -1), attributes[_ISPEED])
    attributes[_OSPEED] = _SPEEDS.get(modes.get(_TTY_OP_OSPEED, -1), attributes[_OSPEED])
    attributes[_CC] = characters
    try:
        termios.tcsetattr(terminal, termios.TCSANOW, attributes)
    except termios.error:
        # The C library says so when not *all* could be set (a pty has always 8 bits); what could be is.
        return
