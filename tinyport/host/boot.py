"""Which boot of this machine it is. Light: link loads it."""

from __future__ import annotations


def boot_id() -> str:
    """The kernel's name for the time since it booted (random(4)); empty where it has none."""
    try:
        # Link has no other codec than this one, and nowhere to load one from.
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            return file.read(64).strip()
    except OSError:
        return ""
