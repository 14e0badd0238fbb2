"""Keys that must not come to a disk by way of swap."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.node.tiny_cluster import LIMIT
from tinyport.host.locked_memory import pin, swaps_to_disk

LOCKED = """
import os, sys
from tinyport.host import locked_memory
done = locked_memory.lock_process()
text = open("/proc/self/status").read()
print(done, int(text.partition("VmLck:")[2].split()[0]) > 0, flush=True)
if os.fork() == 0:
    text = open("/proc/self/status").read()
    print(int(text.partition("VmLck:")[2].split()[0]), flush=True)
    os._exit(0)
os.wait()
"""


def test_swap_on_a_disk_is_told_from_compressed_memory(tmp_path: Path) -> None:
    table = tmp_path / "swaps"
    head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    table.write_text(head + "/dev/zram0 partition 1 0 100\n/var/swap file 102396 0 -2\n")
    assert swaps_to_disk(str(table)) == ["/var/swap"]
    table.write_text(head)
    assert swaps_to_disk(str(table)) == []
    assert swaps_to_disk(str(tmp_path / "none")) == []


def test_a_process_is_locked_or_says_that_it_is_not() -> None:
    command = [sys.executable, "-c", LOCKED]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT)
    first, child = done.stdout.splitlines()
    # Where there is no right to: neither.
    assert first in ("True True", "False False")
    assert child == "0"


def test_a_pinned_file_is_not_mapped_in_children() -> None:
    descriptor = os.memfd_create("tinyport-pinned")
    os.ftruncate(descriptor, 64 * 1024)
    held = pin(descriptor)
    if held is None:
        pytest.skip("no memory may be locked here")
    assert "tinyport-pinned" in Path("/proc/self/maps").read_text()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, b"mapped" if "tinyport-pinned" in Path("/proc/self/maps").read_text() else b"not")
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as said:
        assert said.read() == b"not"
    os.waitpid(child, 0)
    held.close()
    os.close(descriptor)
