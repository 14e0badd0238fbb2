"""The worker's process: what it does without, before it loads asyncssh.

Nothing of asyncssh is changed by it: what is missing here is never reached in a server that has our options.
"""

from __future__ import annotations

import sys
import typing
from importlib import import_module
from types import ModuleType

from tinyport.host import libraries

#: What asyncssh and cryptography use when it is there and go without when it is not, and a node never offers: X.509
#: certificates and umac (which look for libraries with the help of other programs), keys with a passphrase, keys on
#: tokens, GSSAPI. 1.7 MB, and so much less that a stranger's bytes could be given to.
LEFT_OUT = (
    "asyncssh.crypto.x509",
    "asyncssh.crypto.umac",
    "bcrypt",
    "fido2",
    "gssapi",
    "pkcs11",
)
#: What asyncssh cannot be imported without, but is for clients and for servers that read files themselves; ours does
#: that in a process of the user's. 1.2 MB.
EMPTY = ("asyncssh.sftp", "asyncssh.scp")


class _Empty(ModuleType):
    """Has a class of nothing for each name that is imported from it."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


class _FromTyping(ModuleType):
    """typing_extensions, without those 0.3 MB as long as what is asked for is in ``typing`` by now."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if not hasattr(typing, name):
            sys.modules.pop(self.__name__, None)
            vars(self).update(vars(import_module(self.__name__)))
            return vars(self)[name]
        return getattr(typing, name)


def leave_out() -> None:
    """Importing one of them raises ImportError from here on, as if it was not installed, or brings nothing."""
    sys.modules.setdefault("typing_extensions", _FromTyping("typing_extensions"))
    for name in LEFT_OUT:
        sys.modules[name] = None  # type: ignore[assignment]
    for name in EMPTY:
        sys.modules[name] = _Empty(name)


def main() -> None:
    """Entry of the process that the keeper starts: channel on fd 3, configuration on fd 4."""
    leave_out()
    libraries.ask_nobody()
    from tinyport.node.worker.worker import main as work

    work()
