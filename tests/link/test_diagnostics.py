"""The page for Prometheus, and the two questions of whoever restarts services."""

from __future__ import annotations

import asyncio
import socket
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from tinyport.core.errors import OperatorError
from tinyport.link.diagnostics import Diagnostics, Figure, exposition

FIGURES = [
    Figure.one("sessions", "Open sessions", 3),
    Figure("requests", "Answers", {("GET", 'a"b\\c\nd'): 2, ("PUT", "x"): 1}, ("method", "route"), counts=True),
]


def test_the_page_is_what_prometheus_reads() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    body, kind = exposition("auth", FIGURES)
    assert kind.startswith("text/plain")
    found = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert [sample.value for sample in found["tinyport_auth_sessions"].samples] == [3]
    requests = found["tinyport_auth_requests"]
    assert (requests.type, requests.documentation) == ("counter", "Answers")
    # Whatever a label's value is, it is that one value.
    assert {(one.labels["method"], one.labels["route"]): one.value for one in requests.samples} == dict(
        FIGURES[1].values
    )
    assert found["tinyport_auth_process_resident_memory_bytes"].samples[0].value > 1_000_000


def ask(address: tuple[str, int], path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address[0]}:{address[1]}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def served(missing: Callable[[], str | None], *paths: str) -> list[tuple[int, str]]:
    async def figures() -> list[Figure]:
        return FIGURES

    async def run() -> list[tuple[int, str]]:
        diagnostics = Diagnostics("auth", ("127.0.0.1", 0), figures, missing)
        await diagnostics.start()
        try:
            return [await asyncio.to_thread(ask, diagnostics.address, path) for path in paths]
        finally:
            await diagnostics.stop()

    return asyncio.run(run())


def test_health() -> None:
    metrics, healthy, ready, nothing = served(lambda: None, "/metrics", "/healthz", "/readyz", "/v1/users")
    assert (metrics[0], healthy, ready, nothing[0]) == (200, (200, "ok\n"), (200, "ready\n"), 404)
    assert "tinyport_auth_sessions 3.0" in metrics[1]
    assert served(lambda: "no policy yet", "/readyz", "/healthz") == [(503, "no policy yet\n"), (200, "ok\n")]


def test_a_port_that_somebody_has() -> None:
    async def figures() -> list[Figure]:
        return []

    with socket.create_server(("127.0.0.1", 0)) as taken:
        diagnostics = Diagnostics("auth", taken.getsockname(), figures, lambda: None)
        with pytest.raises(OperatorError, match="cannot serve diagnostics on"):
            asyncio.run(diagnostics.start())
