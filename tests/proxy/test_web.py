"""HTTPS for browsers: few pages, strict headers, a certificate for the right names."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path

import pytest

from tests.proxy.conftest import Cluster, close, run, world
from tinyport.proxy import web, web_api


def browser(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "proxy" / "web.pem"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def get(here_address: tuple[str, int], context: ssl.SSLContext, path: str) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection(*here_address, ssl=context, server_hostname="127.0.0.1")
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    await close(writer)
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}, body


def test_pages(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the built page, wherever the tests run."""
    monkeypatch.setattr(web, "PAGE", tmp_path / "page")

    async def main() -> None:
        async with world(cluster, tmp_path) as here:
            context = browser(tmp_path)
            for path, expected in (
                ("/healthz", b'"ok"'),
                ("/readyz", b'"ok"'),
                ("/invite", b'tsh signup "https://127.0.0.1:3080/invite#...'),
                ("/style.css", b"font"),
            ):
                status, headers, body = await get(here.address, context, path)
                assert (status, expected in body) == (200, True)
                assert "default-src 'none'" in headers["content-security-policy"]
                assert headers["x-content-type-options"] == "nosniff"
                assert headers["x-frame-options"] == "DENY"
                assert headers["strict-transport-security"]
                assert headers["server"] == "tinyport"
                assert b"<script" not in body
            status, _, body = await get(here.address, context, "/webapi/ping")
            assert json.loads(body)["cluster"] == "farm"
            assert json.loads(body)["ca_pins"][0].startswith("sha256:")
            status, headers, _ = await get(here.address, context, "/etc/passwd")
            assert (status, headers["x-frame-options"]) == (404, "DENY")

    run(main())


def test_too_many_browsers(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_WEB", 1)

    async def main() -> None:
        async with world(cluster, tmp_path) as here:
            context = browser(tmp_path)
            reader, writer = await asyncio.open_connection(*here.address, ssl=context, server_hostname="127.0.0.1")
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" in await reader.readline()
            with pytest.raises(OSError):
                await asyncio.open_connection(*here.address, ssl=context, server_hostname="127.0.0.1")
            await close(writer)

    run(main())


@pytest.mark.parametrize(
    "path", ["users/..", "users/%2e%2e", "users/%2E.", "nodes/%2e%2e/accept", "users/a%2Fb", "a//b"]
)
def test_what_is_passed_on_stays_where_it_was_asked_for(path: str) -> None:
    assert web_api._passed("DELETE", "users/alice@farm.example")
    assert not any(web_api._passed(method, path) for method in ("GET", "POST", "PATCH", "DELETE"))
