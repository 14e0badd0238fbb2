"""The node on a Python as OpenWrt has it: byte code alone, only the declared parts of the standard library."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.packaging import imports, openwrt_python
from tests.packaging.conftest import People
from tests.scenarios.cluster import LIMIT, text
from tinyport.core.version import VERSION

DECLARED = openwrt_python.with_needs(openwrt_python.declared("tinyport"))
#: in cryptography's and asyncssh's Makefiles; what the feed has for them
DEPENDENCIES = {
    "python3-cffi",
    "python3-typing-extensions",
    "python3-cryptography",
    "python3-asyncssh",
    "python3-light",
}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return openwrt_python.build(tmp_path_factory.mktemp("openwrt"), DECLARED)


def test_every_declared_package_is_one_that_we_know() -> None:
    assert openwrt_python.declared("tinyport") <= set(openwrt_python.PACKAGES) | DEPENDENCIES
    assert openwrt_python.declared("python-asyncssh") <= set(openwrt_python.PACKAGES) | DEPENDENCIES


def test_that_python_lacks_what_is_not_declared(python: Path) -> None:
    missing = openwrt_python.blocked(DECLARED)
    assert {"unittest", "xml", "sqlite3", "multiprocessing"} <= missing
    # Debian's interpreter has some of them inside itself.
    for module in missing - set(sys.builtin_module_names):
        done = openwrt_python.run(python, f"import {module}")
        assert "ModuleNotFoundError" in done.stderr, (module, done.stderr)
    assert not list(python.parent.parent.rglob("*.py"))


def test_what_is_for_administrators_is_not_shipped(python: Path) -> None:
    """The command that would need it says so."""
    words = [str(python.parent / "tinyport"), "quickstart"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "a node is all that this package has" in done.stderr


def test_what_is_left_out_is_what_a_node_does_not_import() -> None:
    """By the import statements that can be reached from the command, those in functions too."""
    root = openwrt_python.ROOT
    gone = openwrt_python.left_out(root)
    shipped = imports.modules(root / "tinyport", without=gone)
    reached = imports.reachable(shipped, "tinyport.admin.main")
    # "start" and "quickstart" look for the server's parts, and say that there are none.
    allowed = ("tinyport.auth", "tinyport.proxy", "tinyport.admin.quickstart")
    unmet = {(name, one) for name in reached for one in imports.imported(name, shipped[name]) if one not in shipped}
    ours = imports.modules(root / "tinyport")
    assert {pair for pair in unmet if pair[1] in ours and not pair[1].startswith(allowed)} == set()
    useless = {name: shipped[name].stat().st_size for name in set(shipped) - reached}
    assert sum(useless.values()) < 30_000, f"leave these out in packaging/openwrt/tinyport/Makefile: {sorted(useless)}"


@pytest.mark.parametrize("package", sorted(openwrt_python.declared("tinyport") & set(openwrt_python.PACKAGES)))
def test_no_package_is_declared_for_nothing(package: str) -> None:
    """Each takes room on a router's flash: something that the node loads must be in it."""
    code = (
        "import sys\n"
        "import asyncssh, tinyport.node.worker.worker, tinyport.node.keeper.keeper\n"
        "import tinyport.admin.main, tinyport.admin.start_command, tinyport.start, tinyport.link.enrolment\n"
        "import tinyport.node.launcher, tinyport.node.enrol\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert set(done.stdout.split()) & set(openwrt_python.PACKAGES[package])


@pytest.mark.parametrize("package", ["tinyport", "python3-asyncssh", "python3-aiosqlite"])
def test_what_the_feed_asks_of_each_package(package: str, python: Path, tmp_path: Path) -> None:
    """test.sh beside each Makefile, which the packages feed runs after installing; and it can say no."""
    # sqlite is nothing that the node's packages bring.
    interpreter = sys.executable if package == "python3-aiosqlite" else python
    version = VERSION if package == "tinyport" else metadata.version(package.removeprefix("python3-"))
    (tmp_path / "python3").write_text(f'#!/bin/sh\nexec {interpreter} "$@"\n')
    (tmp_path / "python3").chmod(0o755)
    if package == "tinyport":
        (tmp_path / "tinyport").symlink_to(python.parent / "tinyport")
    script = openwrt_python.FEED / package.replace("python3-", "python-") / "test.sh"
    for asked, status in ((version, 0), ("99.9", 1)):
        words = [need_program("busybox"), "ash", str(script), package, asked]
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == status, done.stderr


@pytest.fixture
def node(python: Path, people: People, tmp_path: Path) -> Iterator[str]:
    """A node on that Python that has joined: its name."""
    name = "router"
    config = tmp_path / "tinyport.toml"
    config.write_text(people.toml(name, str(tmp_path / "data")))
    log = tmp_path / "log"
    words = [str(python.parent / "tinyport"), "start", "--roles=node", "-c", str(config)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env={"PATH": os.environ["PATH"]}
        )
    try:
        people.online(name)
        yield name
    except BaseException:
        print(log.read_text())
        raise
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(LIMIT)
    assert "Traceback" not in log.read_text()


def test_it_joins_and_serves_shells_files_and_forwardings(
    node: str, people: People, load: Path, tmp_path: Path
) -> None:
    assert people.ssh(node, "echo $TINYPORT_NODE").strip() == node
    assert people.ssh(node, "tty; exit 0", tty=True).startswith("/dev/pts/")
    people.sftp(node, load, str(tmp_path / "there"))
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as stream:
                while stream.recv(100):
                    pass
                stream.sendall(b"heard")

        thread = threading.Thread(target=answer)
        thread.start()
        host, port = server.getsockname()
        done = people.cluster.run(
            *("ssh", "-F", people.config, "-o", "BatchMode=yes", "-W", f"{host}:{port}"),
            f"{people.cluster.login_name}@{node}.{people.domain}",
            input=b"hello",
            home="ann",
        )
        thread.join()
    assert done.stdout == b"heard", text(done)
