"""What monitoring asks a server of ours: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz``.

Plain HTTP without credentials on an address of its own (``tinyport.diag_addr``), which is the machine's own unless
somebody says otherwise. Nothing there names a user, a node or an address.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinyport.core.errors import OperatorError
from tinyport.core.names import format_address

KEEPALIVE = 75.0
MAX_REQUEST = 16 * 1024


@dataclass(frozen=True)
class Figure:
    """One metric. ``name`` without the suffix that counters get; ``values``: labels' values, in the order of
    ``labels`` → the figure.
    """

    name: str
    help: str
    values: Mapping[tuple[str, ...], float]
    labels: Sequence[str] = ()
    counts: bool = False

    @classmethod
    def one(cls, name: str, help: str, value: float, *, counts: bool = False) -> Figure:
        return cls(name, help, {(): value}, counts=counts)


class Diagnostics:
    """Order: made, ``start``, ``stop``. ``role``: auth or proxy, which the names of its figures begin with.

    ``figures`` is asked at each scrape; ``missing`` for what keeps the role from being ready, None for nothing.
    """

    def __init__(
        self,
        role: str,
        address: tuple[str, int],
        figures: Callable[[], Awaitable[Iterable[Figure]]],
        missing: Callable[[], str | None],
    ) -> None:
        self._role = role
        self._address = address
        self._figures = figures
        self._missing = missing
        self._runner: Any = None

    async def start(self) -> None:
        """Accept. OperatorError when the address cannot be had."""
        from aiohttp import web

        application = web.Application(client_max_size=MAX_REQUEST)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(application, access_log=None, keepalive_timeout=KEEPALIVE, shutdown_timeout=1.0)
        await self._runner.setup()
        host, port = self._address
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self.stop()
            raise OperatorError(
                f"cannot serve diagnostics on {format_address(host, port)}: {error.strerror or error}",
                hint="change tinyport.diag_addr",
            ) from None

    @property
    def address(self) -> tuple[str, int]:
        """Where it serves, which port 0 leaves to the system."""
        host, port = self._runner.addresses[0][:2]
        return str(host), int(port)

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, request: Any) -> Any:
        del request
        from aiohttp import web

        body, kind = exposition(self._role, list(await self._figures()))
        return web.Response(body=body, headers={"Content-Type": kind})

    async def _healthz(self, request: Any) -> Any:
        """It answers, so its event loop turns."""
        del request
        from aiohttp import web

        return web.Response(text="ok\n")

    async def _readyz(self, request: Any) -> Any:
        del request
        from aiohttp import web

        missing = self._missing()
        if missing is not None:
            return web.Response(text=f"{missing}\n", status=503)
        return web.Response(text="ready\n")


def exposition(role: str, figures: Sequence[Figure]) -> tuple[bytes, str]:
    """The page and its content type, with what the library tells of the process besides."""
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    class Collected:
        def collect(self) -> Iterator[Any]:
            for figure in figures:
                kind = CounterMetricFamily if figure.counts else GaugeMetricFamily
                family = kind(f"tinyport_{role}_{figure.name}", figure.help, labels=list(figure.labels))
                for labels, value in figure.values.items():
                    family.add_metric(list(labels), value)
                yield family

    registry = CollectorRegistry()
    registry.register(Collected())
    ProcessCollector(namespace=f"tinyport_{role}", registry=registry)
    return generate_latest(registry), CONTENT_TYPE_LATEST
