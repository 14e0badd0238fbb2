"""``tsh proxy ssh``: standard input and output joined to a node, for OpenSSH's ProxyCommand. Loads no SSH engine."""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import ssl

from tinyport.client.dial import Dialled, dial
from tinyport.client.target import checked_login, default_login, split_target, strip_port
from tinyport.client.whoami import identity_of

_PIECE = 64 * 1024
#: what may wait in one direction before its source is read no more
_MOST = 256 * 1024


def run(args: argparse.Namespace) -> int:
    """Join until either side ends. A refusal is an error like any other: ssh shows our standard error."""
    # ssh ends its ProxyCommand by SIGHUP and then waits for it; below nohup the signal would be ignored, for ever.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    identity = identity_of(args)
    login, node = split_target(strip_port(args.target))
    dialled = dial(identity, node.removesuffix(f".{identity.cluster}"), checked_login(login or default_login(identity)))
    Join(dialled, 0, 1).run()
    return 0


class Join:
    """Bytes both ways between a TLS socket and two descriptors, until the node's side ends.

    The end of standard input is passed on by ending TLS' sending side; standard input that cannot be watched (a file)
    is always ready.
    """

    def __init__(self, dialled: Dialled, source: int, target: int) -> None:
        self._secure = dialled.socket
        self._source = source
        self._target = target
        self._to_target = bytearray(dialled.early)
        self._to_node = bytearray()
        self._source_open = True
        self._node_open = True
        self._was_blocking = {number: os.get_blocking(number) for number in (source, target)}

    def run(self) -> None:
        """Until the node has ended and everything of it was written, or nobody reads us."""
        self._secure.setblocking(False)
        for number in self._was_blocking:
            os.set_blocking(number, False)
        try:
            with selectors.PollSelector() as selector:
                while self._step(selector):
                    pass
        except (BrokenPipeError, ConnectionError):
            # ssh left, or the proxy did; ssh says what that means.
            return
        finally:
            for number, blocking in self._was_blocking.items():
                os.set_blocking(number, blocking)
            self._secure.close()

    def _step(self, selector: selectors.BaseSelector) -> bool:
        """Wait for whatever can go on, and do it; False when all is done."""
        if not self._node_open and not self._to_target:
            return False
        socket_events = (selectors.EVENT_READ if self._node_open and len(self._to_target) < _MOST else 0) | (
            selectors.EVENT_WRITE if self._to_node and self._node_open else 0
        )
        wanted = {
            self._secure.fileno(): socket_events,
            self._target: selectors.EVENT_WRITE if self._to_target else 0,
        }
        if self._source_open and len(self._to_node) < _MOST:
            wanted[self._source] = wanted.get(self._source, 0) | selectors.EVENT_READ
        _watch(selector, wanted)
        # What TLS has decrypted already does not make the socket readable.
        pending = bool(socket_events & selectors.EVENT_READ) and self._secure.pending() > 0
        ready = {key.fd: events for key, events in selector.select(0 if pending else None)}
        if self._source_open and ready.get(self._source, 0) & selectors.EVENT_READ:
            self._read_source()
        if pending or ready.get(self._secure.fileno(), 0) & selectors.EVENT_READ:
            self._read_node()
        # Written at once when possible: a round through poll costs more than a call that would block.
        if self._to_node and self._node_open:
            self._write_node()
        if self._to_target:
            self._write_target()
        return True

    def _read_source(self) -> None:
        try:
            data = os.read(self._source, _PIECE)
        except (BlockingIOError, InterruptedError):
            return
        if not data:
            # SSH has ends of its own inside; when ssh closes our input, it is leaving.
            self._source_open = False
            if not self._to_node:
                self._node_open = False
            return
        self._to_node += data

    def _read_node(self) -> None:
        try:
            data = self._secure.recv(_PIECE)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        if data:
            self._to_target += data
        else:
            self._node_open = False

    def _write_node(self) -> None:
        with memoryview(self._to_node) as view:
            try:
                sent = self._secure.send(view[:_PIECE])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                sent = 0
        del self._to_node[:sent]
        if not self._to_node and not self._source_open:
            self._node_open = False

    def _write_target(self) -> None:
        with memoryview(self._to_target) as view:
            try:
                sent = os.write(self._target, view[:_PIECE])
            except (BlockingIOError, InterruptedError):
                sent = 0
        del self._to_target[:sent]


def _watch(selector: selectors.BaseSelector, wanted: dict[int, int]) -> None:
    """Make ``selector`` watch exactly what is wanted."""
    watched = {key.fd: key.events for key in selector.get_map().values()}
    for number, events in wanted.items():
        if events and number not in watched:
            selector.register(number, events)
        elif events and watched[number] != events:
            selector.modify(number, events)
    for number in watched:
        if not wanted.get(number):
            selector.unregister(number)
