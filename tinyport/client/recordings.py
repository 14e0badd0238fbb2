"""``tsh recordings``: what was recorded, as far as one's roles let one see; and one of them as a file."""

from __future__ import annotations

import argparse

from tinyport.client.whoami import auth_client, identity_of
from tinyport.host import console_recordings
from tinyport.host.console import emit


def ls(args: argparse.Namespace) -> int:
    with auth_client(identity_of(args)) as client:
        found = console_recordings.find(args, lambda path: client.request("GET", path))
    emit(args, {"recordings": found}, lambda: console_recordings.lines(found))
    return 0


def export(args: argparse.Namespace) -> int:
    with auth_client(identity_of(args)) as client:
        console_recordings.save(client.lines("GET", console_recordings.path_of(args.id), silence=60.0), args.output)
    return 0
