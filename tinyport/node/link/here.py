"""Telling auth that this process is the node: at its start, and when a proxy has preferred another one. Light: link
loads it.

Auth tells from it whether there are two devices with this identity, and which came later (core.instances).
"""

from __future__ import annotations

from tinyport.core.errors import TinyportError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyport.host.logging_line import Log
    from tinyport.node.link.events import AuthLine

PATH = "/v1/here"
MAX_HEARD = 100


class Here:
    """``renew()`` is called when auth wants this device to have another certificate, or another identity."""

    def __init__(self, auth: AuthLine, name: str, instance: str, renew: Callable[[], None], log: Log) -> None:
        """``name``: the node's, by its certificate; ``instance``: "" for one that is not told, and then nothing is
        said."""
        self._auth = auth
        self._name = name
        self.instance = instance
        self._renew = renew
        self._log = log
        self._wanted = True
        self._under_way = False
        self._again = False
        #: auth's last answer, as it wants it repeated
        self._heard = ""
        self._copy = False

    def doubted(self) -> None:
        """Another tunnel took the place of ours: somebody else's?"""
        self._wanted = True
        # What was heard before says nothing of who is there now.
        self._heard = ""

    def tunnel_up(self) -> None:
        """There is a way to auth."""
        if self._wanted and self.instance and not self._under_way:
            self._again = False
            self._ask()

    def document(self, name: object, split: object) -> None:
        """The node's document came. ``name``: what it calls the node; ``split``: what it says of copies that get their
        own identity. Unchecked: auth decides."""
        if (isinstance(name, str) and name != self._name) or (isinstance(split, list) and self.instance in split):
            self._renew()

    def _ask(self) -> None:
        self._wanted, self._under_way = False, True
        self._auth.request("POST", PATH, {"instance": self.instance, "heard": self._heard}, self._told)

    def _told(self, answer: dict[str, object] | None, error: TinyportError | None) -> None:
        self._under_way = False
        if answer is None:
            # An older auth has no such route, another one is away: at the next tunnel.
            self._wanted = error is not None and error.code not in ("not_found", "no_method")
            self._log.debug("auth was not told that we are here", reason=error)
            return
        heard = answer.get("heard")
        self._heard = heard if isinstance(heard, str) and len(heard) <= MAX_HEARD else ""
        if answer.get("again") is True and not self._again:
            # We have heard it now; that is what it wants to know.
            self._again = True
            self._ask()
            return
        copy = answer.get("copy") is True
        if copy and not self._copy:
            self._log.warning("another device has this identity: this one, which came later, gets no sessions")
        self._copy = copy
        if answer.get("renew") is True or answer.get("split") is True:
            self._renew()
