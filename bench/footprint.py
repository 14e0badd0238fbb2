"""What a node costs while nobody is there: its installed size, what it writes, how often it wakes."""

from __future__ import annotations

import compileall
import importlib.util
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from bench import processes
from bench.report import Row, Suite
from tests.packaging.openwrt_python import leave_out
from tests.scenarios.cluster import BIN, Cluster, wait_for

MEGABYTE = 2**20
#: what is installed along with asyncssh; Python and cryptography are on the device already
LIBRARIES = ("asyncssh", "typing_extensions")


def measure(quick: bool) -> Suite:
    suite = Suite("footprint")
    _size(suite)
    with tempfile.TemporaryDirectory(prefix="tinyport-bench-") as name:
        cluster = Cluster(Path(name))
        cluster.start()
        try:
            _quiet(suite, cluster, Path(name), 60 if quick else 120)
        finally:
            cluster.stop()
    return suite


def _size(suite: Suite) -> None:
    """Sources and byte code: of ours what OpenWrt's package ships of it, and all of the libraries."""
    import tinyport

    root = Path(tinyport.__file__).parent
    sizes: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="tinyport-bench-") as name:
        folder = Path(name)
        shutil.copytree(root, folder / "tinyport", ignore=shutil.ignore_patterns("__pycache__", "systemd"))
        leave_out(folder)
        for library in LIBRARIES:
            _copy_library(library, folder)
        sources = _count(folder)
        # The kind that our feed makes for OpenWrt: no sources, and no docstrings in the byte code.
        compileall.compile_dir(folder, quiet=1, optimize=2)
        lean = _count(folder) - sources
        for cache in list(folder.rglob("__pycache__")):
            shutil.rmtree(cache)
        compileall.compile_dir(folder, quiet=1)
        for entry in sorted(folder.iterdir()):
            if entry.name != "__pycache__":
                sizes[entry.name] = _count(entry)
        whole = _count(folder)
    code = whole - sources
    suite.details["installed, MB"] = {
        **sizes,
        "sources": sources,
        "byte code": code,
        "byte code, -OO": lean,
        "all": whole,
    }
    note = f"sources {sources:.1f}, byte code {code:.1f}; asyncssh {sizes.get('asyncssh', 0):.1f} of it"
    suite.rows.append(Row("installed node, without Python and cryptography", "MB", whole, target=3.0, note=note))
    suite.rows.append(Row("the same as byte code alone, with docstrings", "MB", code))
    suite.rows.append(Row("the same as byte code alone, without (OpenWrt)", "MB", lean, target=3.0))


def _copy_library(name: str, folder: Path) -> None:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        return
    origin = Path(found.origin)
    if origin.name == "__init__.py":
        shutil.copytree(origin.parent, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(origin, folder / origin.name)


def _count(path: Path) -> float:
    if path.is_file():
        return path.stat().st_size / MEGABYTE
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file()) / MEGABYTE


def _quiet(suite: Suite, cluster: Cluster, folder: Path, seconds: int) -> None:
    """A node of its own, joined and left alone; its status socket is not asked either."""
    made = cluster.tctl_json("tokens", "add", "--type", "node")
    config = folder / "node.toml"
    config.write_text("[node]\nenabled = true\nlisten = []\n")
    words = [str(BIN / "tinyport"), "start", "--roles=node", "-c", str(config), "--data-dir", str(folder / "n")]
    words += ["--server", cluster.ready["proxy"], "--ca-pin", cluster.ready["ca_pin"], "--nodename", "quiet"]
    with (folder / "quiet.log").open("wb") as log:
        node = subprocess.Popen([*words, "--token", made["token"]], stdout=log, stderr=log, env=cluster.env())
    try:
        wait_for("the node", lambda: node.poll() is None and cluster.node_status("quiet") == "online")
        wait_for("keeper and worker to leave", lambda: len(processes.tree(node.pid)) == 2, limit=400)
        time.sleep(15)
        pids = {processes.name(pid): pid for pid in processes.tree(node.pid)}
        before = {name: (processes.wakeups(pid), processes.written(pid)) for name, pid in pids.items()}
        files = _files(folder / "n")
        print(f"  leaving an idle node alone for {seconds} s", flush=True)
        time.sleep(seconds)
        after = {name: (processes.wakeups(pid), processes.written(pid)) for name, pid in pids.items()}
        changed = sorted(set(_files(folder / "n").items()) ^ set(files.items()))
    finally:
        node.terminate()
        node.wait(60)
    minutes = seconds / 60
    wakes = {name: (after[name][0] - before[name][0]) / minutes for name in pids}
    wrote = {name: after[name][1] - before[name][1] for name in pids}
    suite.details["idle"] = {"seconds": seconds, "wakeups a minute": wakes, "bytes written": wrote, "files": changed}
    note = ", ".join(f"{name} {value:.1f}" for name, value in wakes.items())
    suite.rows.append(Row("idle node, wakes", "/min", sum(wakes.values()), target=2.0, note=note))
    names = ", ".join(sorted({name for name, _ in changed})) or "no file changed"
    suite.rows.append(Row("idle node, writes", "bytes", float(sum(wrote.values())), target=0.0, note=names))


def _files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
