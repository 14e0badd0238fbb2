"""Reading a running role's configuration again. A node's: in a process of its own, so that the monitor parses nothing.

The monitor runs it on SIGHUP: its answer goes to fd 3, and what it is told comes on fd 4 (both JSON in memory files).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyport.core.config import Config
from tinyport.core.errors import ConfigError, TinyportError

ANSWER, TASK = 3, 4
_MAX_TASK = 4 * 1024 * 1024
#: what the command line may say on top of the file; the token is for joining, and stays out of memory
WORDS = ("data_dir", "server", "nodename", "ca_pin", "diag_addr", "debug", "roles", "labels")


def again(path: Path | None, args: argparse.Namespace) -> tuple[list[str], dict[str, object]]:
    """How to read again what ``tinyport start`` was told: a command line, and the task for it."""
    from tinyport.admin.role_process import command

    words = {name: getattr(args, name, None) for name in WORDS}
    task: dict[str, object] = {
        "path": None if path is None else os.path.abspath(path),
        "words": {**words, "token": None},
    }
    return command("tinyport.admin.reread", "main()"), task


def configuration(task: Mapping[str, Any]) -> dict[str, object]:
    """What the monitor is told if it starts now. TinyportError when it would not start. ``task``: see ``checked``."""
    from tinyport.start import node_configuration

    return node_configuration(checked("node", task))


def checked(role: str, task: Mapping[str, Any]) -> Config:
    """What the configuration says of ``role`` now. TinyportError when it would not start.

    ``task``: ``path`` of the file (or None), ``words`` of the command line, and for a role of a supervisor
    ``document``, the one that it was started with, in which only what the file says of this role counts again.
    """
    from tinyport.admin import config_file
    from tinyport.admin.local_cluster import role_document
    from tinyport.admin.start_command import overridden

    path = task["path"]
    source = "command line" if path is None else str(path)
    document: dict[str, Any] = {} if path is None else config_file.read_document(Path(path))
    words = task.get("words")
    if words is not None:
        document = overridden(document, argparse.Namespace(**words))
    started = task.get("document")
    if started is None:
        mine = role_document(role, document, config_file.check(document, source))
    else:
        # Where the cluster is has not changed: this supervisor runs it, or found it when it started.
        config_file.check(document, source)
        log = document.get("tinyport", {}).get("log")
        general = {**started["tinyport"], **({} if log is None else {"log": log})}
        mine = {"tinyport": general, role: {**document.get(role, {}), "enabled": True}}
    return config_file.check(mine, source)


def main() -> None:
    """The process: one answer, whatever happens."""
    task = json.loads(os.pread(TASK, _MAX_TASK, 0))
    answer: dict[str, object]
    try:
        answer = {"configuration": configuration(task)}
    except ConfigError as error:
        answer = {"problems": error.problems, "hint": error.hint}
    except (TinyportError, OSError) as error:
        answer = {"problems": [str(error)], "hint": getattr(error, "hint", "")}
    os.write(ANSWER, json.dumps(answer).encode())


__all__ = ["main"]
