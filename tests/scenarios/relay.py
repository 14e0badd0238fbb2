"""A TCP relay of the scenarios' own: another address for a server."""

from __future__ import annotations

import socket
import threading


def move(source: socket.socket, target: socket.socket) -> None:
    """Bytes from one to the other until one of them ends."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        # One end is gone: so is the other's reason to be there.
        end(source, target)


def end(*sockets: socket.socket) -> None:
    for one in sockets:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue


class Relay:
    """Leads from ``address`` to ``target``. ``cut`` ends it and every connection through it."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def connections(self) -> int:
        """How many go through it now."""
        return len(self._open)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(near,)))
            self._threads[-1].start()

    def _serve(self, near: socket.socket) -> None:
        with near:
            try:
                far = socket.create_connection(self._target)
            except OSError:
                return
            with far:
                self._open.add(near)
                back = threading.Thread(target=move, args=(far, near))
                back.start()
                move(near, far)
                back.join()
                self._open.discard(near)

    def cut(self) -> None:
        end(self._listener)
        self._listener.close()
        end(*list(self._open))
        for thread in self._threads:
            thread.join()
