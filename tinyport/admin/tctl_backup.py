"""``tctl backup`` and ``restore``: the whole cluster in one file."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from tinyport.admin import config_file
from tinyport.admin.connection import connect
from tinyport.core.errors import OperatorError
from tinyport.core.names import printable
from tinyport.host.console import CommandLine, emit, output_options
from tinyport.start import restore_auth


def add_commands(parser: CommandLine) -> None:
    backup = parser.command(
        "backup",
        _backup,
        help="copy the whole cluster into a file, while it runs",
        description="Copy auth's database into FILE, as it is at one moment. Only on the auth host. The file holds the "
        "cluster's private keys: whoever has it is the cluster.",
        examples=["tctl backup /mnt/safe/farm-$(date +%F).db"],
        parents=[output_options()],
    )
    backup.add_argument("file", metavar="FILE", help="is made 0600, and must not exist")
    restore = parser.command(
        "restore",
        _restore,
        help="make a backup the cluster again; auth must not be running",
        description="Put a backup in the place of auth's database. What is there is kept beside it. Certificates and "
        "machines from after the backup stay good; users, roles and locks are as they were then.",
        examples=[
            "systemctl stop tinyport",
            "tctl -c /etc/tinyport/tinyport.toml restore /mnt/safe/farm-2026-01-31.db",
        ],
        parents=[output_options()],
    )
    restore.add_argument("file", metavar="FILE", help="what tctl backup made")


def _backup(args: argparse.Namespace) -> int:
    target = Path(args.file)
    if target.exists():
        raise OperatorError(f"{target} exists already", hint="choose another name; a backup replaces nothing")
    part = target.with_name(f"{target.name}.part")
    size = 0
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise OperatorError(f"{part} cannot be written: {error.strerror}") from None
    try:
        with open(descriptor, "wb") as file, connect(args) as client:
            os.fchmod(descriptor, 0o600)
            for piece in client.download("POST", "/v1/backup"):
                size += file.write(piece)
            file.flush()
            os.fsync(descriptor)
        os.rename(part, target)
    finally:
        part.unlink(missing_ok=True)
    emit(args, {"file": str(target), "bytes": size}, lambda: [f"{printable(str(target))}: {size} bytes"])
    return 0


def _restore(args: argparse.Namespace) -> int:
    path = config_file.chosen_path(args.config)
    if path is None:
        raise OperatorError("whose database is to be replaced?", hint="give auth's configuration: tctl -c FILE restore")
    restored = restore_auth(Path(config_file.data_dir(path)), Path(args.file), time.time())
    emit(
        args,
        {
            "cluster": restored.cluster,
            "users": restored.users,
            "nodes": restored.nodes,
            "epoch": restored.epoch,
            "replaced": None if restored.replaced is None else str(restored.replaced),
        },
        lambda: [
            f"cluster {printable(restored.cluster)} is restored:"
            f" {restored.users} users, {restored.nodes} nodes and proxies",
            *([] if restored.replaced is None else [f"what was there is in {printable(str(restored.replaced))}"]),
        ],
    )
    if restored.replaced is not None and os.geteuid() == 0:
        print("tctl: hint: the files belong to whoever auth runs as", file=sys.stderr)
    return 0
