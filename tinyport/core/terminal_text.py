"""What programs say to terminals, told apart from what is read: for searching in recordings, and for showing them.

ECMA-48 section 5.4 (control sequences) and 5.6 (control strings), in both their forms, ESC and the C1 character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# A sequence that is longer is none: what was held back is text then.
MAX_SEQUENCE = 8192

_CSI = r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
# ESC or a C1 character within a string ends it, as ``_hopeless`` says of one that is not whole yet: on some terminals
# another sequence begins there.
_OSC = r"(?:\x1b\]|\x9d)[^\x07\x1b\x80-\x9f\x18\x1a]*(?:\x07|\x1b\\|\x9c|[\x18\x1a])"
_STRING = r"(?:\x1b[PX^_]|[\x90\x98\x9e\x9f])[^\x1b\x80-\x9f\x18\x1a]*(?:\x1b\\|\x9c|[\x18\x1a])"
_SHORT = r"\x1b[ -/]+[0-~]|\x1b[0-OQ-WYZ\\`-~]"
_SEQUENCE = re.compile(f"{_CSI}|{_OSC}|{_STRING}|{_SHORT}")
_INTRODUCER = re.compile("[\x1b\x90\x98\x9b\x9d-\x9f]")
_ENDS = re.compile("[\x1b\x80-\x9b\x9d-\x9f]")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Splitter:
    """Text in pieces → (is it a sequence?, text) of whatever is whole. Holds back at most ``MAX_SEQUENCE``."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> Iterator[tuple[bool, str]]:
        text = self._held + text
        self._held = ""
        at = 0
        while at < len(text):
            begins = _INTRODUCER.search(text, at)
            if begins is None:
                yield False, text[at:]
                return
            if begins.start() > at:
                yield False, text[at : begins.start()]
            found = _SEQUENCE.match(text, begins.start())
            if found is not None:
                yield True, found[0]
                at = found.end()
            elif len(text) - begins.start() <= MAX_SEQUENCE and not _hopeless(text, begins.start()):
                self._held = text[begins.start() :]
                return
            else:
                # No sequence after all: its first character is nothing that is shown.
                at = begins.start() + 1


def _hopeless(text: str, at: int) -> bool:
    """Can what begins at ``at`` not become a sequence, whatever comes? Another one, or a C1 character, ends it."""
    following = _ENDS.search(text, at + 1)
    if following is None:
        return False
    # ESC at the very end may be half of the string's end.
    return not (following.start() == len(text) - 1 and text[-1] == "\x1b")


class Plain:
    """What one reads: without sequences and controls, line ends and tabs left."""

    def __init__(self) -> None:
        self._splitter = Splitter()

    def feed(self, text: str) -> str:
        return "".join(_CONTROLS.sub("", piece) for sequence, piece in self._splitter.feed(text) if not sequence)


# What makes a terminal act beyond showing, or answer (the answer would be typed into whatever reads next): DSR, DA,
# DECRQM and the like, window operations, printing, the Linux console's own, how keys and the mouse are told, and the
# keyboard's lock (KAM); and of the control strings all but titles, colours and links.
_ACTING_CSI = re.compile(
    r"(?:\x1b\[|\x9b)(?:[0-?]*[cintx\]]|[<-?][0-?]*[mquS]|[0-?]*[#$%&'()*+,\-./][ -/]*[@-~]"
    r"|[0-;]*(?<![0-9])0*2(?![0-9])[0-;]*h"
    r"|\?[0-;]*(?<![0-9])0*(?:1|9|66|100[0-7]|101[56]|2004|2031|2048)(?![0-9])[0-;]*h)$"
)
# ENQ, and the C1 form of ESC Z: both are answered.
_ASKING = re.compile("[\x05\x9a]")
_SHOWING_OSC = re.compile(r"(?:\x1b\]|\x9d)(?:[012];|8;|(?:4|10|11|12|17|19);[^?]*$|1(?:04|10|11|12|17|19)\b)")


def _is_harmless(sequence: str) -> bool:
    begin = sequence[1] if sequence[0] == "\x1b" else {"\x9b": "[", "\x9d": "]"}.get(sequence[0], "P")
    if begin == "[":
        return _ACTING_CSI.match(sequence) is None
    if begin == "]":
        return _SHOWING_OSC.match(sequence) is not None
    # ESC Z asks who the terminal is (DECID), ESC = makes its keys say something else (DECKPAM); after ESC % @ bytes of
    # harmless characters are C1; ESC SP F has answers come in that form.
    return begin not in "PX^_Z=% "


class Harmless:
    """What a terminal may be shown of somebody else's session: everything that shows, nothing that acts or asks."""

    def __init__(self) -> None:
        self._splitter = Splitter()

    def feed(self, text: str) -> str:
        pieces = []
        for sequence, piece in self._splitter.feed(text):
            if not sequence:
                pieces.append(_ASKING.sub("", piece))
            elif _is_harmless(piece):
                pieces.append(piece)
        return "".join(pieces)
