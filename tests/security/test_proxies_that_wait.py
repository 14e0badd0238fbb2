"""A proxy stands between people and nodes: there is no such thing as half of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.auth.conftest import AuthServer, Clock, auth_settings
from tinyport.auth.settings import StaticToken
from tinyport.core.errors import ConfigError

QUESTIONS = (("GET", "/v1/watch"), ("POST", "/v1/presence"), ("POST", "/v1/access"), ("GET", "/v1/nodes"))


def test_no_token_makes_a_proxy_that_waits(auth: AuthServer) -> None:
    refused = auth.local().post("/v1/tokens", {"type": "proxy", "pending": True})
    assert (refused.status, refused.code) == (400, "bad_request")
    assert auth.local().post("/v1/tokens", {"type": "node", "pending": True}).status == 200


def test_no_static_token_does(tmp_path: Path) -> None:
    from dataclasses import replace

    settings = auth_settings(tmp_path, Clock())
    token = StaticToken("proxy", "fleet.0123456789abcdef0123", pending=True)
    with pytest.raises(ConfigError):
        replace(settings, static_tokens=(token,)).check()


def test_a_quarantined_proxy_asks_nothing(auth: AuthServer) -> None:
    """The older of two proxies with one identity: it must neither hear of nodes nor ask in people's names."""
    proxy = auth.join("door", kind="proxy")
    assert proxy.client.post("/v1/presence", {"full": True, "nodes": []}).status == 200

    async def quarantine() -> None:
        async with auth.service.store.write() as tables:
            await tables.nodes.set_state(proxy.uuid, "quarantined")

    auth.do(quarantine())
    for method, path in QUESTIONS:
        answer = proxy.client.call(method, path, {} if method == "POST" else None)
        assert (answer.status, answer.code) == (403, "quarantined"), path
    assert auth.local().post("/v1/nodes/door/accept").status == 200
    assert proxy.client.post("/v1/presence", {"full": True, "nodes": []}).status == 200
