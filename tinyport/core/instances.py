"""Are there two devices with one identity? Told by the processes that say they are it. Pure; times are arguments.

A node's process names itself by a random number, its *instance*, when it tells auth that it is there. It says in that
what time it was by auth's last answer, so it lived at that moment, however long its words were on their way. Processes
of one device follow each other: all moments of one are before all moments of the next. Where moments of two processes
alternate, there are two devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyport.core.errors import PeerError

#: so many of the last instances are remembered
MOST = 4
_DIGITS = frozenset("0123456789abcdef")

#: (instance, the first moment at which it is known to have lived: Unix seconds by auth's clock)
Lived = tuple[str, float]


@dataclass(frozen=True)
class Meeting:
    """``history``: what to remember, by time; ``copies``: instances that are another device, which came later."""

    history: tuple[Lived, ...]
    copies: tuple[str, ...] = ()


def check_instance(value: object) -> str:
    """PeerError unless it is 32 hexadecimal digits."""
    if not isinstance(value, str) or len(value) != 32 or not _DIGITS.issuperset(value):
        raise PeerError("an instance is 32 hexadecimal digits")
    return value


def meet(history: Sequence[Lived], instance: str, lived: float) -> Meeting:
    """``instance`` says that it is there, and lived at ``lived``."""
    first = next((when for one, when in history if one == instance), None)
    if first is None:
        found = sorted((*history, (instance, lived)), key=lambda one: one[1])
        return Meeting(tuple(found[-MOST:]))
    copies = tuple(one for one, when in history if first < when < lived)
    return Meeting(tuple(one for one in history if one[0] not in copies), copies)
