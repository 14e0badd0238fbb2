"""Looking for text in what recordings showed. Blocks: called in a thread.

A recording is read piece by piece and never held whole; escape sequences and controls are left out, capitals do not
matter, and white space of any length is one blank, as lines end where the terminal's width said.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable

from tinyport.core import recording_frames as f
from tinyport.core.errors import PeerError
from tinyport.core.terminal_text import Plain

_SPACE = re.compile(r"\s+")


def folded(text: str) -> str:
    """As texts are compared."""
    return _SPACE.sub(" ", text).casefold()


def shows(pieces: Iterable[bytes], wanted: str, read: Callable[[int], bool]) -> bool | None:
    """Is ``wanted`` (``folded``, not empty) in it? None when ``read``, told of each piece's bytes, said to stop."""
    plain, decoder = Plain(), codecs.getincrementaldecoder("utf-8")("replace")
    tail = ""
    try:
        for piece in pieces:
            if not read(len(piece)):
                return None
            data = b"".join(data for kind, _, _, data in f.frames(piece) if kind == f.OUTPUT)
            text = _SPACE.sub(" ", tail + folded(plain.feed(decoder.decode(data))))
            if wanted in text:
                return True
            # Half of it may be here, and half in what comes.
            tail = text[-len(wanted) :]
    except (OSError, PeerError):
        # Gone, or damaged: what was read did not show it.
        return False
    return False
