"""What a misspelt word was probably meant to be."""

from __future__ import annotations

from collections.abc import Iterable

#: words that hands bring along from other programs
_HABITS = {"list": "ls", "delete": "rm", "remove": "rm", "show": "get", "edit": "update", "invite": "add"}


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``word`` was probably meant to be, or None."""
    # Loaded for the one who mistyped, not at each start.
    import difflib

    word, words = word[:60], list(known)
    if _HABITS.get(word) in words:
        return _HABITS[word]
    near = difflib.get_close_matches(word, words, 1)
    if near:
        return near[0]
    # Of short words, two letters in the wrong order are too much for difflib.
    return next((one for one in words if sorted(one) == sorted(word)), None)


def suggestion(word: str, known: Iterable[str]) -> str:
    """What to say after "unknown key": the word that was probably meant, or all that there are."""
    words = list(known)
    near = nearest(word, words)
    return f"did you mean {near!r}?" if near else f"known are {', '.join(words)}"
