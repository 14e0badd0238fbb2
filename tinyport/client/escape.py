"""Escape sequences typed after a newline, as ssh has them (``~.``). Pure: bytes in, bytes and commands out."""

from __future__ import annotations

DISCONNECT, SUSPEND, HELP = "disconnect", "suspend", "help"

_COMMANDS = {ord("."): DISCONNECT, 0x1A: SUSPEND, ord("?"): HELP}
_LINE_ENDS = (0x0A, 0x0D)

HELP_TEXT = (
    "Supported escape sequences:",
    " {0}.   - terminate connection",
    " {0}^Z  - suspend tsh",
    " {0}?   - this message",
    " {0}{0}   - send the escape character by typing it twice",
    "(Note that escapes are only recognized immediately after newline.)",
)


def help_lines(character: int) -> list[str]:
    return [line.format(chr(character)) for line in HELP_TEXT]


class EscapeReader:
    """Takes what is typed, gives what is to be sent.

    States: at the start of a line → (the escape character) → after it → (anything) → in a line. A sequence may be cut
    anywhere between two calls. ``character``: the escape character's code, None for no escapes at all.
    """

    def __init__(self, character: int | None = ord("~")) -> None:
        self.character = character
        self._line_start = True
        self._pending = False

    def feed(self, data: bytes) -> tuple[bytes, list[str]]:
        """→ (bytes for the node, commands in the order they were typed). Nothing typed after DISCONNECT is sent."""
        if self.character is None:
            return data, []
        out = bytearray()
        commands: list[str] = []
        for code in data:
            if self._pending:
                self._pending = False
                command = _COMMANDS.get(code)
                if command is not None:
                    commands.append(command)
                    # ssh, too, listens for a further escape right after one.
                    self._line_start = True
                    if command == DISCONNECT:
                        return bytes(out), commands
                    continue
                if code != self.character:
                    out.append(self.character)
                self._line_start = code in _LINE_ENDS
                out.append(code)
            elif code == self.character and self._line_start:
                self._pending = True
            else:
                self._line_start = code in _LINE_ENDS
                out.append(code)
        return bytes(out), commands


def parse_escape(text: str) -> int | None:
    """The value of ``-o EscapeChar``: one character, ``^X``, or ``none``. ValueError for anything else."""
    if text == "none":
        return None
    if len(text) == 2 and text[0] == "^" and "@" <= text[1].upper() <= "_":
        return ord(text[1].upper()) & 31
    if len(text) == 1 and text.isascii():
        return ord(text)
    raise ValueError(text)
