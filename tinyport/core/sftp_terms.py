"""How sessions may move files: not changing anything, and within a folder (``sftp`` and ``sftp_root`` of roles).

Of several roles the tightest counts: "read-only" in any is read-only in all, a root of any is the root; of roots that
lie in each other the innermost; roots beside each other cannot both hold, so nothing is moved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tinyport.core.errors import PeerError
from tinyport.core.names import printable
from tinyport.core.role_templates import template_source, values_of

READ_ONLY = "read-only"
_TEMPLATE = re.compile(r"\{\{[^{}/]*\}\}")
_MAX_ROOT = 512
_MAX_VALUE = 64


@dataclass(frozen=True)
class SftpTerms:
    """``root``: the folder that is all a session sees, absolute; None for the machine's own. ``refusal``: why nothing
    is moved whatever the permits say; empty when that is not so.
    """

    read_only: bool = False
    root: str | None = None
    refusal: str = ""


UNBOUND = SftpTerms()


def check_sftp(value: object) -> None:
    """The option ``sftp`` of a role. PeerError with words for the administrator when it is wrong."""
    if not isinstance(value, bool) and value != READ_ONLY:
        raise PeerError(f'must be true, false or "{READ_ONLY}"')


def check_root(value: object) -> None:
    """The option ``sftp_root`` of a role: an absolute path, in which templates may stand. PeerError when it is none."""
    if not isinstance(value, str) or len(value) > _MAX_ROOT:
        raise PeerError(f"must be a path of at most {_MAX_ROOT} characters")
    for template in _TEMPLATE.findall(value):
        template_source(template)
    _check_path(_TEMPLATE.sub("x", value))


def _check_path(path: str) -> None:
    parts = path.split("/")
    if parts[0] or not path.isprintable():
        raise PeerError("must be an absolute path")
    if "{{" in path or "}}" in path:
        raise PeerError("has a template that is none", hint="use {{user.name}}")
    named = [part for part in parts if part]
    if not named or "." in named or ".." in named:
        raise PeerError("must name a folder below /, without . and ..")


def merge(options: Iterable[Mapping[str, object]], user: str, traits: Mapping[str, Sequence[str]]) -> SftpTerms:
    """What the options of all of a user's roles come to."""
    options = list(options)
    read_only = any(each.get("sftp") == READ_ONLY for each in options)
    try:
        said = sorted({str(each["sftp_root"]) for each in options if "sftp_root" in each})
        root = _innermost({_filled(root, user, traits) for root in said})
    except PeerError as error:
        return SftpTerms(read_only, refusal=f"your roles permit file transfer in a folder only, but {error.message}")
    return SftpTerms(read_only, root)


def _filled(root: str, user: str, traits: Mapping[str, Sequence[str]]) -> str:
    def value(found: re.Match[str]) -> str:
        values = values_of(found.group(), user, traits)
        if len(values) != 1:
            raise PeerError(f"{printable(found.group(), 60)} has {len(values) or 'no'} values for you, not one")
        # Traits are not the administrator's text: one must not leave the folder that it stands in.
        (text,) = values
        if not text or "/" in text or text in (".", "..") or len(text) > _MAX_VALUE or not text.isprintable():
            raise PeerError(f"{printable(found.group(), 60)} is no name of a folder for you: {printable(text, 40)!r}")
        return text

    check_root(root)
    path = _TEMPLATE.sub(value, root)
    _check_path(path)
    return "/" + "/".join(part for part in path.split("/") if part)


def _innermost(roots: set[str]) -> str | None:
    ordered = sorted(roots, key=lambda root: (len(root), root))
    for outer, inner in pairwise(ordered):
        if not inner.startswith(f"{outer}/"):
            raise PeerError(f"they name several: {printable(outer, 80)} and {printable(inner, 80)}")
    return ordered[-1] if ordered else None
