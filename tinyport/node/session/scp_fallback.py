"""scp by its old protocol on a machine without scp: the command gets a shell function of that name, which is ours.

The function stands before the command in the same shell, so quoting and wildcards stay the shell's business, and
nobody's PATH changes.
"""

from __future__ import annotations

import os
import re

from tinyport.node.python_process import light_arguments

# What clients of the old protocol send, and nobody types: "scp -v -r -p -d -t PATH".
_OLD_PROTOCOL = re.compile(rb"scp (?:-[vrpdq]+ )*-[vrpdq]*[tf] ")
#: shells whose functions are written so
_SHELLS = frozenset(("sh", "ash", "bash", "dash", "ksh", "mksh", "zsh"))


def with_scp(command: bytes, shell: str, path: str) -> bytes:
    """``command`` as the shell shall get it. ``path``: the PATH of the session."""
    if not _OLD_PROTOCOL.match(command) or os.path.basename(shell) not in _SHELLS:
        return command
    # Few clients speak it, and a keeper that loads these has 0.4 MB more.
    import shlex
    import shutil

    if shutil.which("scp", path=path):
        return command
    ours = shlex.join(light_arguments("tinyport.node.session.scp_server", call="main()"))
    return f'scp() {{ {ours} "$@"; }}\n'.encode(errors="surrogateescape") + command
