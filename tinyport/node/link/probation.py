"""A new certificate is on probation until a tunnel stands with it. Light: link loads it.

A renewal brings a certificate and the TLS CAs to believe. When no proxy takes the one, or shows one of the other, the
node would be lost: so tunnels try what the node had before in turns with it. Tunnels alone: what is said to auth goes
by the CAs of today (docs/decisions/0020-a-certificate-on-probation.md).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    Contexts = Callable[[str], ssl.SSLContext]

# Refused so often in a row, the new one may be what is wrong. The second try finds out whether TLS ends before the
# proxy.
PATIENCE = 3
# While a tunnel stands with the old one: how often the new one is tried.
AGAIN = 1800.0


class Probation:
    """``today``, ``before``: contexts by protocol; ``before`` is None when there is nothing to go back to. ``may``: may
    it still be used (its certificate has not ended, nobody has given up its CA as stolen)?
    """

    __slots__ = ("_before", "_may", "_today")

    def __init__(self, today: Contexts, before: Contexts | None = None, may: Callable[[], bool] = lambda: True) -> None:
        self._today = today
        self._before = before
        self._may = may

    def choose(self, refused: int) -> tuple[Contexts, bool]:
        """The contexts to try after so many refusals in a row, and whether they are those of before."""
        before = self._before
        if before is None or refused < PATIENCE or (refused - PATIENCE) % 2 or not self._may():
            return self._today, False
        return before, True

    def passed(self) -> None:
        """A tunnel stands with those of today: there is no way back any more."""
        self._before = None
