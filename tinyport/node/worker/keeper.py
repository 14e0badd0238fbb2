"""The worker's line to the keeper: requests with answers, and what the keeper says unasked."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable, Sequence
from typing import NoReturn

from tinyport.core.errors import AccessDenied, PeerError, Unavailable
from tinyport.node.ipc import Channel

Message = dict[str, object]
Answer = tuple[Message, list[int]]

# Asked and not answered; what is more waits here. Otherwise a client that has us ask faster than the keeper answers
# fills the line in both directions, and a worker that does not listen is ended with everybody in it.
UNANSWERED = 128
#: answered when somebody else has answered the keeper, which takes as long as a far host takes
SLOW = frozenset(("connect", "listen", "unlisten", "agent", "x11"))


class KeeperLine:
    """``heard(message, descriptors)`` gets everything that is no answer, in order; ``lost`` is called at the end."""

    def __init__(
        self,
        channel: Channel,
        loop: asyncio.AbstractEventLoop,
        heard: Callable[[Message, list[int]], None],
        lost: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._loop = loop
        self._heard = heard
        self._lost = lost
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        #: numbers of requests that were sent and soon have an answer, and by number those that wait for their turn
        self._sent: set[int] = set()
        self._waiting: dict[int, Message] = {}
        loop.add_reader(channel.fileno(), self._readable)

    def tell(self, op: str, **fields: object) -> None:
        """A request whose answer does not matter."""
        self._post({"op": op, **fields}, self._channel.next_id())

    async def ask(self, op: str, **fields: object) -> Answer:
        """A request and its answer, whose descriptors are the caller's. AccessDenied: the keeper's refusal."""
        number = self._channel.next_id()
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._asked[number] = future
        self._post({"op": op, **fields}, number)
        try:
            return _granted(await future)
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                # The answer came, and nobody is left to take its descriptors.
                close_all(future.result()[1])
            raise
        finally:
            self._asked.pop(number, None)
            self._waiting.pop(number, None)

    def ask_now(self, op: str, **fields: object) -> Answer:
        """As ``ask``, but everything waits: for key exchange, which asyncssh does not let wait."""
        try:
            answer = self._channel.call({"op": op, **fields})
        except OSError as error:
            raise Unavailable("this node is shutting down", detail=str(error)) from None
        finally:
            if self._channel.has_early:
                self._loop.call_soon(self._readable)
        return _granted(answer)

    def _post(self, message: Message, number: int) -> None:
        """Send it, or put it behind those that wait."""
        if len(self._sent) >= UNANSWERED or self._waiting:
            self._waiting[number] = message
        else:
            self._send(message, number)

    def _send(self, message: Message, number: int) -> None:
        if message["op"] not in SLOW:
            self._sent.add(number)
        message["id"] = number
        try:
            self._channel.send(message)
        except OSError:
            # Full or closed. Without the keeper there is nothing left to do here.
            self._end()
            return
        if self._channel.wants_write:
            self._loop.add_writer(self._channel.fileno(), self._writable)

    def _writable(self) -> None:
        try:
            self._channel.flush()
        except OSError:
            self._end()
            return
        if not self._channel.wants_write:
            self._loop.remove_writer(self._channel.fileno())

    def _readable(self) -> None:
        # A bounded number, so that a busy keeper does not starve the sessions.
        for _ in range(64):
            try:
                received = self._channel.receive()
            except BlockingIOError:
                return
            except (PeerError, OSError):
                received = None
            if received is None:
                self._end()
                return
            self._dispatch(*received)

    def _dispatch(self, message: Message, descriptors: list[int]) -> None:
        number = message.get("id")
        if not isinstance(number, int):
            self._heard(message, descriptors)
            return
        self._sent.discard(number)
        while self._waiting and len(self._sent) < UNANSWERED:
            waited = next(iter(self._waiting))
            self._send(self._waiting.pop(waited), waited)
        future = self._asked.get(number)
        if future is not None and not future.done():
            future.set_result((message, descriptors))
        else:
            close_all(descriptors)

    def _end(self) -> None:
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_writer(self._channel.fileno())
        asked, self._asked = self._asked, {}
        for future in asked.values():
            if not future.done():
                future.set_exception(Unavailable("this node is shutting down"))
        self._lost()


def _granted(answer: Answer) -> Answer:
    message, descriptors = answer
    if message.get("ok") is not True:
        close_all(descriptors)
        _refused(message)
    return answer


def _refused(message: Message) -> NoReturn:
    raise AccessDenied(str(message.get("message") or "access denied"), code=str(message.get("code") or ""))


def close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
