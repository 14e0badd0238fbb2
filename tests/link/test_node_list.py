"""Asking another cluster's proxy for its nodes: whatever it answers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tinyport.core.errors import PeerError
from tinyport.link import node_list


class Endless:
    """A proxy whose answer never ends."""

    def __init__(self) -> None:
        self.given = 0
        self.closed = False
        self.stdin = SimpleNamespace(write=lambda data: None)
        self.stdout = self

    async def create_process(self, **wish: Any) -> Endless:
        return self

    async def read(self, count: int) -> bytes:
        self.given += count
        return b"[" * count

    def close(self) -> None:
        self.closed = True


def test_an_answer_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_list, "MAX_ANSWER", 200_000)
    proxy = Endless()
    with pytest.raises(PeerError, match="too long"):
        asyncio.run(node_list.ask_nodes(proxy, [], ""))
    assert proxy.given < 400_000
    assert proxy.closed
