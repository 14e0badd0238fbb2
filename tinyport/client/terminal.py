"""The terminal at this end: raw while a remote one is shown in it, and as it was on every way out."""

from __future__ import annotations

import atexit
import os
import struct
import termios
from collections.abc import Mapping

# RFC 4254 section 8: opcode → the terminal's special character.
_CHARACTERS = {
    1: "VINTR",
    2: "VQUIT",
    3: "VERASE",
    4: "VKILL",
    5: "VEOF",
    6: "VEOL",
    7: "VEOL2",
    8: "VSTART",
    9: "VSTOP",
    10: "VSUSP",
    12: "VREPRINT",
    13: "VWERASE",
    14: "VLNEXT",
    18: "VDISCARD",
}
#: opcode → (index into tcgetattr's list, flag)
_FLAGS = {
    30: (0, "IGNPAR"),
    31: (0, "PARMRK"),
    32: (0, "INPCK"),
    33: (0, "ISTRIP"),
    34: (0, "INLCR"),
    35: (0, "IGNCR"),
    36: (0, "ICRNL"),
    37: (0, "IUCLC"),
    38: (0, "IXON"),
    39: (0, "IXANY"),
    40: (0, "IXOFF"),
    41: (0, "IMAXBEL"),
    42: (0, "IUTF8"),
    50: (3, "ISIG"),
    51: (3, "ICANON"),
    52: (3, "XCASE"),
    53: (3, "ECHO"),
    54: (3, "ECHOE"),
    55: (3, "ECHOK"),
    56: (3, "ECHONL"),
    57: (3, "NOFLSH"),
    58: (3, "TOSTOP"),
    59: (3, "IEXTEN"),
    60: (3, "ECHOCTL"),
    61: (3, "ECHOKE"),
    62: (3, "PENDIN"),
    70: (1, "OPOST"),
    71: (1, "OLCUC"),
    72: (1, "ONLCR"),
    73: (1, "OCRNL"),
    74: (1, "ONOCR"),
    75: (1, "ONLRET"),
    90: (2, "CS7"),
    91: (2, "CS8"),
    92: (2, "PARENB"),
    93: (2, "PARODD"),
}
# Linux's bit, which the termios module does not name before 3.13.
_IUTF8 = 0o040000
_OP_ISPEED, _OP_OSPEED = 128, 129
#: RFC 4254 section 8: 255 says that there is no such character.
_NO_CHARACTER = 255

_TIOCGWINSZ = termios.TIOCGWINSZ


def modes_of(descriptor: int) -> dict[int, int]:
    """A terminal's settings as the pty-req message carries them (opcode → value); empty when it is no terminal."""
    try:
        settings = termios.tcgetattr(descriptor)
    except termios.error:
        return {}
    modes: dict[int, int] = {}
    characters = settings[6]
    for opcode, name in _CHARACTERS.items():
        index = getattr(termios, name, None)
        if index is not None:
            value = characters[index]
            code = value[0] if isinstance(value, bytes) else value
            modes[opcode] = code or _NO_CHARACTER
    for opcode, (place, name) in _FLAGS.items():
        flag = _IUTF8 if name == "IUTF8" else getattr(termios, name, None)
        if flag is not None:
            # CS7 and CS8 are two values of one field.
            field = termios.CSIZE if name in ("CS7", "CS8") else flag
            modes[opcode] = int(settings[place] & field == flag)
    # A remote pty has no line speed; programs that look at it want a plausible one.
    modes[_OP_ISPEED] = modes[_OP_OSPEED] = 38400
    return modes


def size_of(descriptor: int) -> tuple[int, int, int, int]:
    """(columns, rows, pixels wide, pixels high) of a terminal; zeros when it is none."""
    import fcntl

    try:
        packed = fcntl.ioctl(descriptor, _TIOCGWINSZ, b"\0" * 8)
    except OSError:
        return 0, 0, 0, 0
    rows, columns, wide, high = struct.unpack("HHHH", packed)
    return columns, rows, wide, high


class RawTerminal:
    """A terminal that hands every key on as it is. ``restore`` is safe to call any number of times; it is also called
    when the process exits in a way that nobody planned.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved = termios.tcgetattr(descriptor)
        self._raw = False
        atexit.register(self.restore)

    def enter(self) -> None:
        """The settings of OpenSSH's enter_raw_mode (sshtty.c)."""
        if self._raw:
            return
        iflag, oflag, cflag, lflag, ispeed, ospeed, characters = termios.tcgetattr(self._descriptor)
        iflag |= termios.IGNPAR
        iflag &= ~(
            termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
            | termios.IXANY
            | termios.IXOFF
            | getattr(termios, "IUCLC", 0)
        )
        lflag &= ~(
            termios.ISIG
            | termios.ICANON
            | termios.ECHO
            | termios.ECHOE
            | termios.ECHOK
            | termios.ECHONL
            | termios.IEXTEN
        )
        oflag &= ~termios.OPOST
        characters = list(characters)
        characters[termios.VMIN], characters[termios.VTIME] = 1, 0
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, [iflag, oflag, cflag, lflag, ispeed, ospeed, characters])
        self._raw = True

    def restore(self) -> None:
        """Back to what it was."""
        if not self._raw:
            return
        self._raw = False
        try:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._saved)
        except termios.error:
            # The terminal is gone (its window was closed); there is nothing to put right.
            return

    def close(self) -> None:
        """Restore it for good."""
        self.restore()
        atexit.unregister(self.restore)


#: What RFC 4254 and every sshd in use let a client set; anything else is for -o SendEnv.
_SENT = ("LANG", "LANGUAGE", "COLORTERM", "NO_COLOR")


def environment_to_send(environment: Mapping[str, str]) -> dict[str, str]:
    """The locale and the terminal's abilities, as Debian's ssh sends them."""
    return {name: value for name, value in environment.items() if name in _SENT or name.startswith("LC_")}


def is_terminal(descriptor: int) -> bool:
    """True when the descriptor is open on a terminal."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False
