"""What a cluster offers to a shell that completes a word: names of nodes, logins, sessions and so on.

The completion scripts know of what kind a word is (``Offers``) and ask the program itself by its hidden command
``complete KIND WORD``, which prints a candidate a line. Whatever goes wrong, it prints nothing.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping

from tinyport.core.errors import TinyportError

#: how long somebody who pressed a key waits for a server
_PATIENCE = 3
# A shell puts a candidate on its line as it is: only what no shell reads anything into. Labels come from others.
_PLAIN = re.compile(r"[A-Za-z0-9_.@:=/,+-]{1,300}")

#: "ssh target" (a command and its argument) or "--cluster" (an option) → kind; with "+", names of files as well
Offers = Mapping[str, str]
#: kind → the candidates, given the word so far
Kinds = Mapping[str, Callable[[str], Iterable[str]]]


def complete(kinds: Kinds, kind: str, word: str) -> int:
    """Print the candidates that begin with ``word``."""

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_PATIENCE)
    try:
        found = sorted(set(kinds[kind](word))) if kind in kinds else []
    except (TinyportError, OSError, ValueError):
        return 1
    finally:
        signal.alarm(0)
    sys.stdout.writelines(f"{one}\n" for one in found if one.startswith(word) and _PLAIN.fullmatch(one))
    return 0


def targets(word: str, logins: Iterable[str], nodes: Callable[[], Iterable[str]], after: str = "") -> list[str]:
    """``LOGIN@NODE`` for a word that may have its ``@`` already; nodes are asked for once there is somebody to be."""
    login, at, _ = word.rpartition("@")
    found = [f"{login}{at}{node}{after}" for node in nodes()]
    return found if at else [*(f"{one}@" for one in logins), *found]


def names_of(answer: Mapping[str, object], key: str, *fields: str) -> list[str]:
    """The first of ``fields`` that is there, of each item in an answer's list."""
    found = answer.get(key)
    items = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    return [next((str(one[field]) for field in fields if one.get(field)), "") for one in items]


def names_and_labels(answer: Mapping[str, object]) -> list[str]:
    """Of nodes, where a word may be either."""
    return [*names_of(answer, "nodes", "name"), *labels_of(answer)]


def labels_of(answer: Mapping[str, object]) -> list[str]:
    """``k=v`` of the labels that auth gave to nodes."""
    found = answer.get("nodes")
    labels = [one.get("labels") for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    return [f"{key}={value}" for pairs in labels if isinstance(pairs, dict) for key, value in pairs.items()]
