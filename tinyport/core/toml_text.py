"""Values as TOML (toml.io, v1.0) that people read and edit, and that reads back as the same values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

# A line that is longer has its list broken into one item a line.
_LONG = 100
# Of a bare key.
_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")

#: a key and its value → what is said of it behind a ``#``; "" for nothing
Remark = Callable[[str, object], str]


def text_of(text: str) -> str:
    """A basic string. What a terminal would obey, or draw elsewhere, is escaped: these are strangers' words."""
    # JSON's escapes are among TOML's.
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if quoted.isprintable() else "".join(map(_escaped, quoted))


def _escaped(char: str) -> str:
    if char.isprintable():
        return char
    point = ord(char)
    if 0xD800 <= point < 0xE000:
        # Half of a surrogate pair is nothing that TOML can say.
        return "\ufffd"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def key_of(key: str) -> str:
    return key if key and _BARE.issuperset(key) else text_of(key)


def value_of(value: object) -> str:
    """A value in one line. What is None in a list or a mapping is left out: TOML has no word for it."""
    if isinstance(value, Mapping):
        pairs = [f"{key_of(str(key))} = {value_of(item)}" for key, item in value.items() if item is not None]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(value_of(item) for item in value if item is not None) + "]"
    if isinstance(value, str):
        return text_of(value)
    # Numbers as JSON has them, and "inf", which no JSON of ours holds.
    return json.dumps(value)


def document_of(document: Mapping[str, object], remark: Remark = lambda key, value: "") -> list[str]:
    """A whole document, as lines: first what is said of it in one line each, then a section for each mapping."""
    lines = _section(document, remark)
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            lines += ["", f"[{key_of(key)}]", *_section(value, remark, inline=True)]
    return lines


def _section(table: Mapping[str, object], remark: Remark, *, inline: bool = False) -> list[str]:
    lines: list[str] = []
    for key, value in table.items():
        if value is None or (isinstance(value, Mapping) and value and not inline):
            continue
        line = f"{key_of(key)} = {value_of(value)}"
        if len(line) > _LONG and isinstance(value, (list, tuple)):
            lines += [f"{key_of(key)} = [", *(f"    {value_of(item)}," for item in value if item is not None), "]"]
            continue
        said = remark(key, value)
        lines.append(f"{line}  # {said}" if said else line)
    return lines
