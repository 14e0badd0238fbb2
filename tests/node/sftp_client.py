"""Speaks single packets with an sftp server in this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tinyport.node.sftp import wire as w
from tinyport.node.sftp.operations import Operations
from tinyport.node.sftp.requests import Requests


class Client:
    """Speaks single packets with a server in this process."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = os.fsencode(folder)
        rights = {name: options.pop(name) for name in ("allowed", "denied") if name in options}
        self._requests = Requests(Operations(start=self.folder, **options), **rights)
        self.greeting = self._requests.greeting()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self._requests.close()

    def path(self, name: str | bytes) -> bytes:
        return w.string(os.path.join(self.folder, os.fsencode(name)))

    def ask(self, kind: int, body: bytes) -> tuple[int, bytes]:
        answer = bytes(self._requests.answer(kind, 7, w.Packet(body)))
        assert int.from_bytes(answer[:4], "big") == len(answer) - 4 <= w.MAX_PACKET
        assert int.from_bytes(answer[5:9], "big") == 7
        return answer[4], answer[9:]

    def extended(self, name: bytes, body: bytes) -> tuple[int, bytes]:
        return self.ask(w.EXTENDED, w.string(name) + body)

    def status(self, kind: int, body: bytes) -> int:
        return self.told(kind, body)[0]

    def told(self, kind: int, body: bytes) -> tuple[int, bytes]:
        """The code and text of a STATUS answer."""
        answered, payload = self.ask(kind, body)
        assert answered == w.STATUS
        packet = w.Packet(payload)
        return packet.uint32(), packet.string()

    def open(self, name: str, flags: int, attributes: bytes = w.NO_ATTRIBUTES) -> bytes:
        kind, payload = self.ask(w.OPEN, self.path(name) + flags.to_bytes(4, "big") + attributes)
        assert kind == w.HANDLE
        return payload

    def names(self, answer: tuple[int, bytes]) -> list[tuple[bytes, bytes]]:
        """A NAME answer as (name, long name)."""
        kind, payload = answer
        assert kind == w.NAME
        packet = w.Packet(payload)
        found = []
        for _ in range(packet.uint32()):
            found.append((packet.string(), packet.string()))
            packet.attributes()
        return found


def offset(value: int) -> bytes:
    return value.to_bytes(8, "big")


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")
