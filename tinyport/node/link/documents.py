"""Signed documents on their way from the tunnel to the keeper, which alone can judge them. Light: link loads it.

A taken-over proxy must not be able to keep the keeper busy: what is not newer goes nowhere, only the newest of each
kind waits, and forgeries are paid for with ever longer pauses.
"""

from __future__ import annotations

import json

from tinyport.core.names import printable
from tinyport.node.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyport.host.logging_line import Log
    from tinyport.node.loop import Timer

    Version = tuple[int, int]

KINDS = ("policy", "node")
# docs/protocol/policy.md: 1 MiB of text
MAX_TEXT = 1024 * 1024
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0


def peek(signed: object) -> tuple[str, Version] | None:
    """(kind, (epoch, serial)) that a signed document claims, unchecked; None when it is not one for a node."""
    text = signed.get("document") if isinstance(signed, dict) else None
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        return None
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or body.get("kind") not in KINDS:
        return None
    version = _version([body.get("epoch"), body.get("serial")])
    return None if version is None else (body["kind"], version)


def early_renewal(signed: dict[str, object]) -> object:
    """[before, within] as a policy that ``peek`` has read says it (docs/protocol/policy.md), None without one."""
    said = json.loads(str(signed["document"])).get("renew")
    return [said.get("before"), said.get("within")] if isinstance(said, dict) else None


def proxies(signed: dict[str, object]) -> dict[str, object]:
    """Where proxies are, as a policy that ``peek`` has read says it and as a keeper does (docs/protocol/node.md)."""
    body = json.loads(str(signed["document"]))
    config = body.get("config")
    preferred = config.get("proxy_addresses") if isinstance(config, dict) else None
    return {"addresses": body.get("proxies"), "uuids": body.get("proxy_uuids"), "preferred": preferred}


def is_about(signed: dict[str, object], uuid: str) -> bool:
    """Is a node document that ``peek`` has read about this node?"""
    return bool(json.loads(str(signed["document"])).get("uuid") == uuid)


def name_and_split(signed: dict[str, object]) -> tuple[object, object]:
    """What a node document that ``peek`` has read calls the node, and which copies it says get an identity of their
    own; None for what it does not say."""
    body = json.loads(str(signed["document"]))
    return body.get("name"), body.get("split")


def _version(value: object) -> Version | None:
    if isinstance(value, list) and len(value) == 2 and all(type(n) is int and 0 <= n < 2**63 for n in value):
        return value[0], value[1]
    return None


class Documents:
    """``versions``: kind → (epoch, serial) that the keeper holds; the tunnel's hello tells them."""

    def __init__(
        self, loop: Loop, versions: dict[str, Version], send: Callable[[dict[str, object]], None], log: Log
    ) -> None:
        self._loop = loop
        self.versions = {kind: versions.get(kind, (0, 0)) for kind in KINDS}
        self._send = send
        self._log = log
        self._waiting: dict[str, tuple[Version, dict[str, object]]] = {}
        #: kind → the version that was sent and not yet taken
        self._sent: dict[str, Version] = {}
        #: kind → the newest that was sent, until the keeper has written it
        self._kept: dict[str, tuple[Version, dict[str, object]]] = {}
        self._pause = FIRST_PAUSE
        self._timer: Timer | None = None

    def arrived(self, signed: object) -> None:
        """A document came through the tunnel (or from auth)."""
        found = peek(signed)
        if found is None or not isinstance(signed, dict):
            self._log.warning("the proxy sent something that is no document for a node")
            return
        kind, version = found
        held = self._waiting.get(kind)
        if version <= self.versions[kind] or (held is not None and version <= held[0]):
            if version < self.versions[kind]:
                self._log.warning("an old document was sent", kind=printable(kind, 20), version=version)
            return
        self._waiting[kind] = version, signed
        if self._timer is None:
            self._flush()

    def _flush(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        for kind, (version, signed) in waiting.items():
            self._sent[kind] = version
            self._kept[kind] = version, signed
            self._send({"op": "document", "signed": signed})
        self._timer = self._loop.after(self._pause, self._flush)
        # Taken back when the keeper says that it took them.
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def have(self, message: dict[str, object]) -> None:
        """The keeper said what it holds."""
        listed = message.get("unsaved")
        unsaved = listed if isinstance(listed, list) else []
        for kind in KINDS:
            version = _version(message.get(kind))
            if version is None:
                continue
            self.versions[kind] = version
            if kind in self._sent and version >= self._sent[kind]:
                del self._sent[kind]
            if kind in self._kept and version >= self._kept[kind][0] and kind not in unsaved:
                del self._kept[kind]
        if not self._sent:
            self._pause = FIRST_PAUSE

    @property
    def kept(self) -> list[dict[str, object]]:
        """What a keeper that starts now may not find on its disk: a full or read-only one must not bring an older
        policy back.
        """
        return [signed for _, signed in self._kept.values()]
