"""What a keeper has above it: link's line, a successor of its monitor when that is lost, documents and events."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Protocol

from tinyport.core.errors import TinyportError
from tinyport.core.names import printable
from tinyport.core.policy import MAX_DOCUMENT
from tinyport.core.version import VERSION
from tinyport.host.logging_line import Log
from tinyport.node.ipc import Channel
from tinyport.node.keeper.documents import Documents
from tinyport.node.keeper.life import Life
from tinyport.node.keeper.link import LinkLine
from tinyport.node.keeper.outbox import Outbox
from tinyport.node.keeper.redial import Redial
from tinyport.node.loop import Loop

# link says for itself how large a document may be; JSON escapes it once more.
MAX_DOCUMENT_FILE = 2 * MAX_DOCUMENT + 64 * 1024


class Household(Protocol):
    """What is told of what comes from above."""

    life: Life

    @property
    def running(self) -> int: ...

    def arrived(self, message: dict[str, object], descriptor: int) -> None: ...

    def expected(self) -> None: ...

    def judge_again(self) -> None: ...

    def link_renewed(self) -> None: ...

    def succeeded(self) -> None: ...

    def recording_told(self, message: Mapping[str, object]) -> None: ...


class Upstream:
    """Owns the line, and the way to the next one. ``folder``: the node's, None for a keeper that never has another.
    ``name``: the keeper's, which no other has."""

    def __init__(
        self,
        loop: Loop,
        channel: Channel,
        folder: object,
        name: str,
        documents: Documents,
        household: Household,
        log: Log,
    ) -> None:
        self._documents = documents
        self._household = household
        self._log = log
        self._link = LinkLine(loop, channel, self._heard, self._lost, log)
        where = None if folder is None else os.open(str(folder), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        #: descriptor of the node's folder
        self.folder = where
        self._redial = None if where is None else Redial(loop, where, self._hello, self._found, log)
        self.outbox = Outbox(self._link.tell, where, name, loop.after, log)
        self._name = name
        #: there is a successor, or will be: the documents on the disk are its keeper's to write
        self._succeeded = False

    def tell(self, message: Mapping[str, object], descriptors: Sequence[int] = ()) -> bool:
        """Say something to link; False when it could not be said."""
        return self._link.tell(message, descriptors)

    def tell_versions(self) -> None:
        documents = self._documents
        self._link.tell(
            {
                "op": "have",
                **documents.versions(),
                "unsaved": documents.unsaved,
                "renew": documents.renewal,
                "proxies": documents.proxies,
            }
        )

    def leave(self) -> None:
        """At the end: what link did not note goes to the next monitor, what the disk did not take is tried again."""
        if not self._succeeded:
            self._documents.save()
        if self.outbox.empty:
            self.outbox.close()
        else:
            self.outbox.flush()
            self.outbox.offline()

    # ------------------------------------------------------------------ link

    def _heard(self, message: dict[str, object], descriptors: list[int]) -> None:
        operation = message.get("op")
        if operation == "noted":
            self.outbox.noted(message.get("n"))
            return
        if operation in ("recording", "unrecorded"):
            self._household.recording_told(message)
            return
        self._household.life.touched()
        if operation == "conn" and len(descriptors) == 1:
            self._household.arrived(message, descriptors.pop())
        elif operation == "conn":
            self._log.error("no descriptor is left for a connection; it is closed")
        elif operation == "warm":
            self._household.expected()
        elif operation == "document":
            self._document(message.get("signed"), descriptors)
        elif operation == "time":
            try:
                self._documents.confirm_time(message.get("signed"), message.get("monotonic"))
            except TinyportError as error:
                self._log.warning("a statement of the time is not believed", reason=error)
        elif operation == "closed":
            self._household.life.closed()
        elif operation == "resend":
            self.outbox.again()
            self._household.link_renewed()
        elif operation == "reread":
            self._reread()
        else:
            self._log.warning("link sent something unknown", op=printable(str(operation), 40))

    def _document(self, signed: object, descriptors: Sequence[int]) -> None:
        """A signed document, in the message or (when it is large) in a memfd beside it."""
        try:
            if len(descriptors) == 1:
                signed = json.loads(os.pread(descriptors[0], MAX_DOCUMENT_FILE, 0))
            # Two that write could leave the older one on the disk.
            kind = self._documents.install(signed, write=not self._succeeded)
        except (TinyportError, OSError, ValueError, RecursionError) as error:
            self._log.warning("a document is not taken", reason=error)
            return
        if kind is not None:
            self._log.info("a new document", kind=kind, version=self._documents.versions()[kind])
            self._household.judge_again()
        self.tell_versions()

    def _reread(self) -> None:
        """The keeper of today has written what we may have missed."""
        if self._documents.reload():
            self._log.info("newer documents", **self._documents.versions())
            self._household.judge_again()
        self.tell_versions()

    # ------------------------------------------------------------------ without a monitor

    def _lost(self) -> None:
        self.outbox.offline()
        if not self._succeeded:
            self._log.info("link and monitor are gone", sessions=self._household.running)
        self._succeeded = True
        self._household.succeeded()
        if self._redial is not None:
            self._redial.start()
        self._household.life.drain()

    def _hello(self) -> dict[str, object]:
        return {"version": VERSION, "name": self._name, "sessions": self._household.running}

    def _found(self, channel: Channel) -> None:
        """Another daemon's line. Connections are its own keeper's; ours stay until they end."""
        self._log.info("a new monitor", sessions=self._household.running)
        self._link.replace(channel)
        self._reread()
