"""Where proxies are, and which of these addresses a tunnel tries next. Nothing here talks. Light: link loads it."""

from __future__ import annotations

from tinyport.core.errors import PeerError
from tinyport.core.names import is_uuid, parse_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    Address = tuple[str, int]

# A policy of a cluster with more proxies than that has more than a node could use.
MAX_PLACES = 32


class Places:
    """Addresses in the order in which they are tried, and which proxy answers at each as far as is known.

    ``home``: addresses that need nobody's word: where a tunnel stood before, and the configured server. What the signed
    policy says comes through ``sign``.
    """

    __slots__ = ("_inside", "_leads", "_signed", "home", "preferred")

    def __init__(self, home: list[Address]) -> None:
        self.home = list(dict.fromkeys(home))
        self._signed: list[Address] = []
        #: addresses at which an administrator wants tunnels to stand (cluster_config proxy_addresses)
        self.preferred: list[Address] = []
        self._leads: dict[Address, str] = {}
        #: where TLS ends before the proxy: True, as far as is known; False: it was tried, and is not so
        self._inside: dict[Address, bool] = {}

    def sign(self, said: object) -> bool:
        """Take ``{"addresses", "uuids", "preferred"}`` of a policy (docs/protocol/node.md); says whether it is new."""
        table = said if isinstance(said, dict) else {}
        uuids = table.get("uuids")
        signed, preferred = parse_places(table.get("addresses")), parse_places(table.get("preferred"))
        for text, uuid in uuids.items() if isinstance(uuids, dict) else ():
            for place in parse_places([text]):
                if place in signed and isinstance(uuid, str) and is_uuid(uuid):
                    self._leads[place] = uuid
        if (signed, preferred) == (self._signed, self.preferred):
            return False
        self._signed, self.preferred = signed, preferred
        self._leads = {place: uuid for place, uuid in self._leads.items() if place in signed or place in self.home}
        return True

    def inside(self, place: Address) -> bool:
        """Is what is said to the proxy there to go inside HTTP?"""
        return self._inside.get(place, False)

    def is_no_proxy(self, place: Address) -> bool:
        """Whoever answers there is none of ours. Is there another way to be tried?"""
        if place not in self._inside:
            self._inside[place] = True
            return True
        self._inside[place] = False
        return False

    def found(self, place: Address, uuid: str) -> None:
        """This proxy answered there."""
        self._leads[place] = uuid

    def open(self, held: Collection[str], settled: Collection[str], busy: Collection[Address]) -> list[Address]:
        """Signed addresses at which there may be a proxy that no tunnel leads to. ``held``: proxies to which one does,
        ``settled``: those of them that stand where they should; ``busy``: addresses that are in use.
        """
        return [
            place
            for place in self._signed
            if place not in busy and self._leads.get(place) not in (settled if place in self.preferred else held)
        ]

    def of(self, proxy: str, busy: Collection[Address]) -> list[Address]:
        """Addresses at which this proxy has answered, or should."""
        known = [*self.preferred, *self._signed, *self.home]
        return [place for place in dict.fromkeys(known) if place not in busy and self._leads.get(place) == proxy]

    def all(self, busy: Collection[Address]) -> list[Address]:
        """Every address, for a node that has no tunnel at all."""
        return [place for place in dict.fromkeys([*self.home, *self._signed]) if place not in busy]


def parse_places(value: object) -> list[Address]:
    """A list of ``host:port``; what is none is left out."""
    found: list[Address] = []
    for text in value[:MAX_PLACES] if isinstance(value, (list, tuple)) else ():
        try:
            place = parse_address(str(text), 443)
        except PeerError:
            continue
        if place not in found:
            found.append(place)
    return found
