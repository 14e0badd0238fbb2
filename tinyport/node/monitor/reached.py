"""Where tunnels have stood: kept for the day when the configured server is gone. Light: the monitor loads it.

A cluster that moves tells its nodes by the signed policy. What is here is what has worked, whatever that policy says by
now: a node that was told a wrong address, and rebooted in the middle of it, still finds its way.
"""

from __future__ import annotations

import json

from tinyport.core.names import format_address
from tinyport.host.files import read_limited, write_private
from tinyport.node.link.places import parse_places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyport.host.logging_line import Log

    Address = tuple[str, int]

FILE = "reached.json"
MAX_FILE = 16 * 1024
MAX_REACHED = 4


class Reached:
    """``places``: newest first. ``server``: the configured one; what was reached under another is forgotten."""

    def __init__(self, folder: str, server: Address, log: Log) -> None:
        self._path = f"{folder}/{FILE}"
        self._server = server
        self._log = log
        self.places: list[Address] = []
        try:
            found = json.loads(read_limited(self._path, MAX_FILE))
        except (OSError, ValueError, RecursionError):
            return
        if isinstance(found, dict) and found.get("server") == format_address(*server):
            self.places = parse_places(found.get("reached"))[:MAX_REACHED]

    def note(self, standing: object) -> None:
        """Link's list of ``{"server"}`` where tunnels stand now. Written only when there is a new one."""
        tunnels = standing if isinstance(standing, list) else []
        now = parse_places([tunnel.get("server") for tunnel in tunnels if isinstance(tunnel, dict)])[:MAX_REACHED]
        known = set(self.places)
        self.places[:] = list(dict.fromkeys([*now, *self.places]))[:MAX_REACHED]
        if known.issuperset(now):
            return
        text = json.dumps(
            {"server": format_address(*self._server), "reached": [format_address(*place) for place in self.places]}
        )
        try:
            write_private(self._path, text.encode())
        except OSError as error:
            self._log.warning("the server's address could not be written", reason=error)

    def servers(self, said: object = None) -> list[str]:
        """Where to renew, the likeliest first: where ``said`` (``host:port``), where tunnels stood, as configured."""
        places = dict.fromkeys([*parse_places([said] if said else []), *self.places, self._server])
        return [format_address(*place) for place in places]
