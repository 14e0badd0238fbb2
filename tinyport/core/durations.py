"""Durations ("30m", "12h", "7d") and sizes ("256kB") as people write them."""

from __future__ import annotations

from tinyport.core.errors import PeerError
from tinyport.core.names import printable

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_BYTES = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_MOST = 10 * 365 * 86400


def _split(text: str) -> list[tuple[int, str]]:
    """``1h30m`` → [(1, "h"), (30, "m")]; empty when the text is not of that form."""
    pieces: list[tuple[int, str]] = []
    rest = text.strip()
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789"))
        tail = rest[digits:]
        unit = tail[: len(tail) - len(tail.lstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"))]
        if not 0 < digits < 16 or not unit:
            return []
        pieces.append((int(rest[:digits]), unit))
        rest = tail[len(unit) :]
    return pieces


def parse_duration(text: str) -> int:
    """``"90s"``, ``"30m"``, ``"1h30m"``, ``"7d"`` → seconds, at most ten years. PeerError for anything else."""
    pieces = _split(text) if isinstance(text, str) else []
    if not pieces or any(unit not in _SECONDS for _, unit in pieces):
        raise PeerError(f"{printable(str(text), 40)!r} is not a duration", hint='write "90s", "30m", "12h" or "7d"')
    seconds = sum(count * _SECONDS[unit] for count, unit in pieces)
    if seconds > _MOST:
        raise PeerError(f"{printable(text, 40)!r} is longer than ten years")
    return seconds


def format_duration(seconds: float) -> str:
    """Seconds as people say them, in at most two units: ``2h 5m``, ``3d``, ``12s``."""
    left = int(abs(seconds))
    words: list[str] = []
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, _SECONDS[unit])
        if count:
            words.append(f"{count}{unit}")
        elif words:
            break
        if len(words) == 2:
            break
    return " ".join(words) or "0s"


def parse_size(text: str) -> int:
    """``"256kB"``, ``"4MiB"`` → bytes. PeerError for anything else."""
    pieces = _split(text.replace(" ", "")) if isinstance(text, str) else []
    if len(pieces) != 1 or pieces[0][1] not in _BYTES:
        raise PeerError(f"{printable(str(text), 40)!r} is not a size", hint='write "64kB", "4MiB" or "1GB"')
    return pieces[0][0] * _BYTES[pieces[0][1]]
