"""Which copies are connected, and from where: what proxies say, for as long as their lease lasts. Pure; times are
arguments (monotonic seconds).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from tinyport.auth.presence import FULL_REPORT_GRACE


class CopiesThere:
    """Small: most nodes have no copy, and nothing is kept of them."""

    def __init__(self) -> None:
        #: node UUID → proxy UUID → (instance of a copy → where its tunnel comes from)
        self._told: dict[str, dict[str, dict[str, str]]] = {}
        #: (node UUID, proxy UUID) → until when the proxy is believed without saying it again
        self._doubted: dict[tuple[str, str], float] = {}

    def of(self, node: str) -> dict[str, str]:
        """Instance → where its tunnel comes from."""
        found: dict[str, str] = {}
        for told in self._told.get(node, {}).values():
            found.update(told)
        return found

    def tell(self, proxy: str, node: str, told: Mapping[str, str]) -> set[str]:
        """A proxy says which copies of a node are connected to it. Of which instances that is news."""
        self._doubted.pop((node, proxy), None)
        before = self._told.get(node, {}).get(proxy, {})
        if told == before:
            return set()
        if told:
            self._told.setdefault(node, {})[proxy] = dict(told)
        else:
            self._drop(node, proxy)
        return {*told, *before}

    def full(self, proxy: str, mentioned: Collection[str], now: float) -> None:
        """A full report of the proxy begins; what it does not mention soon is not there."""
        for node, proxies in self._told.items():
            if proxy in proxies and node not in mentioned:
                self._doubted.setdefault((node, proxy), now + FULL_REPORT_GRACE)

    def expire(self, now: float, proxy_online: Callable[[str], bool]) -> dict[str, set[str]]:
        """Forget what is no longer believed: node → instances that were there by that."""
        gone: dict[str, set[str]] = {}
        for node, proxies in list(self._told.items()):
            for proxy, told in list(proxies.items()):
                if not proxy_online(proxy) or self._doubted.get((node, proxy), now + 1) <= now:
                    gone.setdefault(node, set()).update(told)
                    self._drop(node, proxy)
        return gone

    def forget(self, node: str) -> None:
        """The node was removed."""
        for proxy in list(self._told.get(node, ())):
            self._drop(node, proxy)

    def _drop(self, node: str, proxy: str) -> None:
        self._doubted.pop((node, proxy), None)
        proxies = self._told.get(node, {})
        proxies.pop(proxy, None)
        if not proxies:
            self._told.pop(node, None)
