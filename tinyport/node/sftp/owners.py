"""Names of users and groups for listings, from the system or, where there is none to ask, from what was known."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

USER, GROUP = "u", "g"
# A folder may hold files of more owners than a machine has memory for.
_MAX_KNOWN = 512


class Owners:
    """``known``: the only names there are, for a session in a root of its own: there the system's name service
    would read what lies in that root, and load code from it.
    """

    def __init__(self, known: Mapping[tuple[str, int], bytes] | None = None) -> None:
        self._known: dict[tuple[str, int], bytes] = dict(known or {})
        self._closed = known is not None

    def name(self, kind: str, number: int) -> bytes:
        """The name of a user or group; empty when it has none."""
        key = (kind, number)
        found = self._known.get(key)
        if found is None:
            if self._closed:
                return b""
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            found = self._known[key] = name_of(kind, number)
        return found

    def shown(self, kind: str, number: int) -> bytes:
        """As ``ls -l`` shows it: the number when there is no name."""
        return self.name(kind, number) or b"%d" % number

    def home(self, login: bytes) -> bytes | None:
        """The home folder of an account; None when there is none, or nobody to ask."""
        if self._closed:
            return None
        import pwd

        try:
            return os.fsencode(pwd.getpwnam(os.fsdecode(login)).pw_dir)
        except (KeyError, ValueError):
            return None


def name_of(kind: str, number: int) -> bytes:
    """Ask the system. Empty when it has no name for the number."""
    # pwd and grp are asked when first needed: a transfer of one file never does.
    try:
        if kind == USER:
            import pwd

            return os.fsencode(pwd.getpwuid(number).pw_name)
        import grp

        return os.fsencode(grp.getgrgid(number).gr_name)
    except (KeyError, OverflowError):
        return b""
