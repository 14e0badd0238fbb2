"""The keeper's process: what it is started with, and what it does first."""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from tinyport.core.errors import OperatorError, TinyportError
from tinyport.host.locked_memory import lock_process
from tinyport.host.logging_line import Log
from tinyport.host.privileges import not_dumpable
from tinyport.node.generations import PROTOCOL
from tinyport.node.ipc import Channel
from tinyport.node.python_process import close_all_but, name_process

CHANNEL, CONFIGURATION, IDENTITY = 3, 4, 5


def _read_configuration(descriptor: int) -> dict[str, object]:
    with open(descriptor, encoding="utf-8") as file:
        configuration = json.load(file)
    if not isinstance(configuration, dict):
        raise OperatorError("the keeper's configuration is not an object")
    if configuration.get("protocol") != PROTOCOL:
        raise OperatorError("another version was installed while the node runs", hint="restart the node")
    return configuration


class _Later(ModuleType):
    """A module that is loaded when something of it is used."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        sys.modules.pop(self.__name__, None)
        found = import_module(self.__name__)
        vars(self).update(vars(found))
        return getattr(found, name)


def load() -> None:
    """Import the keeper. ``dataclasses`` imports ``inspect``, which is 1.1 MB with what it brings, for classes without
    a docstring (from Python 3.12 on for each): ours have one.
    """
    if "inspect" not in sys.modules:
        sys.modules["inspect"] = _Later("inspect")
    import_module("tinyport.node.keeper.keeper")


def main() -> None:
    """Entry of the process that the monitor starts: channel on fd 3, configuration on fd 4, the identity on fd 5."""
    try:
        configuration = _read_configuration(CONFIGURATION)
    except (TinyportError, OSError, ValueError) as error:
        _fail(error)
    # Whatever else whoever started the monitor left open: sessions of other people must not find it.
    configuration["identity_memory"] = IDENTITY if configuration.get("identity_memory") else None
    kept = {CHANNEL, IDENTITY} if configuration["identity_memory"] else {CHANNEL}
    close_all_but({0, 1, 2, *kept})
    for descriptor in kept:
        os.set_inheritable(descriptor, False)
    name_process("tinyport-keeper")
    # The host key is in our memory. The limit, which sessions may raise again, is for core files; a core_pattern that
    # is a pipe (systemd-coredump, apport) does not ask for it, and gets nothing of a process that is not dumpable.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    not_dumpable()
    if configuration.get("lock_memory"):
        lock_process()
    os.umask(0o077)
    load()
    from tinyport.node.keeper.keeper import Keeper
    from tinyport.node.keeper.link import MAX_QUEUED

    channel = Channel(socket.socket(fileno=CHANNEL), queue_limit=MAX_QUEUED)
    try:
        keeper = Keeper(configuration, channel)
    except (TinyportError, OSError) as error:
        _fail(error)
    keeper.run()


def _fail(error: Exception) -> NoReturn:
    Log("node.keeper").error("the keeper cannot start", reason=error)
    raise SystemExit(1) from None
