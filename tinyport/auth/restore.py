"""A backup becomes the store again. Auth is not running meanwhile: the lock sees to it.

What nodes hold may be newer than the backup, and they only ever go forward. So a restored cluster begins a new epoch,
which is above every one before it; the documents are signed anew when auth starts.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tinyport.auth.store import lock_store
from tinyport.auth.store_restore import inspect, mark
from tinyport.core.errors import OperatorError
from tinyport.host.files import private_folder


@dataclass(frozen=True)
class Restored:
    """``replaced``: where the store that was there is now, None when there was none."""

    cluster: str
    users: int
    nodes: int
    epoch: int
    replaced: Path | None


def restore(data_dir: Path, backup: Path, now: float) -> Restored:
    """Put ``backup`` in the place of the store under ``data_dir``. ``now``: Unix seconds.

    OperatorError when auth is running, when the backup is damaged or of another cluster than what is there; nothing is
    changed then.
    """
    folder = data_dir / "auth"
    private_folder(folder)
    lock = lock_store(folder)
    fresh = folder / "restore.tmp"
    try:
        _copy(backup, fresh)
        found = inspect(fresh, backup)
        store = folder / "auth.db"
        held = _held(store)
        if held is not None and held[0] != found.cluster:
            raise OperatorError(
                f"{backup} is of cluster {found.cluster}, and {folder} of {held[0]}",
                hint="move that folder away first, if it is to be replaced by another cluster",
            )
        # Above the epochs of both, and of a restore that nobody remembers.
        epoch = max(found.epoch + 1, held[1] + 1 if held is not None else 0, int(now))
        mark(fresh, epoch, now)
        replaced = _move_away(store, int(now))
        os.replace(fresh, store)
        _sync(folder)
        return Restored(found.cluster, found.users, found.nodes, epoch, replaced)
    finally:
        for left in (fresh, Path(f"{fresh}-wal"), Path(f"{fresh}-shm"), Path(f"{fresh}-journal")):
            left.unlink(missing_ok=True)
        os.close(lock)


def _copy(backup: Path, fresh: Path) -> None:
    fresh.unlink(missing_ok=True)
    try:
        source = backup.open("rb")
    except OSError as error:
        raise OperatorError(f"{backup} cannot be read: {error.strerror}") from None
    with source, open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as target:
        shutil.copyfileobj(source, target)
        target.flush()
        os.fsync(target.fileno())


def _held(store: Path) -> tuple[str, int] | None:
    """(cluster, epoch) of the store that is there, as far as it can be read."""
    if not store.exists():
        return None
    try:
        found = inspect(store, store)
    except OperatorError:
        # Damaged: that is why somebody restores.
        return None
    return found.cluster, found.epoch


def _move_away(store: Path, now: int) -> Path | None:
    """Keep what was there, with its log of last writes: it may be wanted for a look."""
    if not store.exists():
        return None
    kept = store.with_name(f"auth.db.replaced-{now}")
    for end in ("-wal", "-shm", ""):
        old = Path(f"{store}{end}")
        if old.exists():
            os.replace(old, f"{kept}{end}")
    return kept


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
