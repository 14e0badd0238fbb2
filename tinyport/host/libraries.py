"""Where shared libraries are, found without the help of other programs.

``ctypes.util.find_library`` asks ldconfig, gcc and ld, and for the last two needs a folder for temporary files: on a
machine whose disk is full or read-only it raises an error instead, and with it asyncssh's import, which looks for
libraries that it can do without.
"""

from __future__ import annotations

import os
import sys

#: ld.so(8): the usual ones, and Debian's by architecture
_FOLDERS = ("/usr/local/lib", "/usr/lib", "/lib", "/usr/lib64", "/lib64")


def find(name: str) -> str | None:
    """The path of ``lib<name>.so``, or of the highest version of it; None when there is none."""
    triplet = getattr(sys.implementation, "_multiarch", "")
    for folder in (*(f"{above}/{triplet}" for above in _FOLDERS if triplet), *_FOLDERS):
        try:
            entries = os.listdir(folder)
        except OSError:
            continue
        found = sorted((entry for entry in entries if _is(entry, name)), key=lambda entry: (len(entry), entry))
        if found:
            return f"{folder}/{found[-1]}"
    return None


def _is(entry: str, name: str) -> bool:
    stem, so, version = entry.partition(".so")
    return bool(so) and stem == f"lib{name}" and (not version or version[1:].replace(".", "").isdigit())


def ask_nobody() -> None:
    """Have ``ctypes.util`` find libraries in this way, before asyncssh is imported."""
    import ctypes.util

    ctypes.util.find_library = find
