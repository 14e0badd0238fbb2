"""``{{source.name}}`` in roles: what the administrator writes once and each user's certificate fills in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tinyport.core.errors import PeerError
from tinyport.core.names import printable

_SOURCES = ("internal", "external", "traits", "user")


def template_source(template: str) -> tuple[str, str]:
    """``{{internal.logins}}`` → ("internal", "logins"). PeerError when it is not a template that we know."""
    inner = template[2:-2].strip() if template.startswith("{{") and template.endswith("}}") else ""
    source, dot, name = inner.partition(".")
    if not dot or not name or source not in _SOURCES or "{" in inner:
        raise PeerError(
            f"{printable(template, 60)!r} is not a template", hint="use {{internal.logins}} or {{user.name}}"
        )
    return source, name


def values_of(template: str, user: str, traits: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """What it stands for, unchecked: traits are not the administrator's text."""
    source, name = template_source(template)
    return [user] if (source, name) == ("user", "name") else traits.get(name, ())
