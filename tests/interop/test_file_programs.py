"""Programs that move files over ssh: scp in both protocols, sshfs, git; and ways through the proxy by hand."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.interop.conftest import Peer
from tests.scenarios.cluster import LIMIT, text


def for_scp(options: list[str]) -> list[str]:
    return ["-P" if word == "-p" else word for word in options]


@pytest.mark.parametrize("protocol", ["-O", "-s"])
@pytest.mark.parametrize("way", ["through the proxy", "straight"])
def test_scp_both_ways(peer: Peer, tmp_path: Path, protocol: str, way: str) -> None:
    need_program("scp")
    options = for_scp(peer.direct if way == "straight" else peer.via_proxy)
    tree = tmp_path / "tree"
    (tree / "in ner").mkdir(parents=True)
    for name in ("a", "in ner/b b"):
        (tree / name).write_bytes(os.urandom(300_000))
    os.utime(tree / "a", (1_000_000_000, 1_000_000_000))
    (tree / "a").chmod(0o640)
    for words in (
        [f"{tree}", f"{peer.destination}:{tmp_path}/there"],
        [f"{peer.destination}:{tmp_path}/there", f"{tmp_path}/back"],
    ):
        done = peer.cluster.run("scp", protocol, "-r", "-p", *options, *words, home=peer.user)
        assert done.returncode == 0, text(done)
    for name in ("a", "in ner/b b"):
        assert (tmp_path / "back" / name).read_bytes() == (tree / name).read_bytes()
    status = (tmp_path / "back/a").stat()
    assert (status.st_mtime, status.st_mode & 0o777) == (1_000_000_000, 0o640)
    missing = peer.cluster.run(
        "scp", protocol, *options, f"{peer.destination}:{tmp_path}/none", f"{tmp_path}/x", home=peer.user
    )
    assert missing.returncode == 1, text(missing)
    assert b"No such file" in missing.stderr


def test_sshfs(peer: Peer, tmp_path: Path) -> None:
    need_program("sshfs")
    unmount = need_program("fusermount3")
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    (there / "old").write_bytes(os.urandom(200_000))
    words = ["sshfs", "-F", str(peer.config), "-o", "BatchMode=yes", f"{peer.destination}:{there}", str(here)]
    done = peer.cluster.run(*words, home=peer.user)
    assert done.returncode == 0, text(done)
    try:
        assert (here / "old").read_bytes() == (there / "old").read_bytes()
        (here / "new").write_bytes(b"x" * 100_000)
        (here / "new").rename(here / "newer")
        (here / "folder").mkdir()
        (here / "folder/link").symlink_to("../old")
        with (here / "old").open("r+b") as file:
            file.seek(10)
            file.write(b"patched")
            file.truncate(100)
        assert (
            os.statvfs(here).f_blocks
            == os.statvfs(there).f_blocks * os.statvfs(there).f_frsize // os.statvfs(here).f_frsize
        )
    finally:
        subprocess.run([unmount, "-u", str(here)], check=True, timeout=LIMIT)
    assert (there / "newer").stat().st_size == 100_000
    assert (there / "folder/link").readlink() == Path("../old")
    assert (there / "old").read_bytes()[10:17] == b"patched"
    assert (there / "old").stat().st_size == 100


def test_git_clone_and_push(peer: Peer, tmp_path: Path) -> None:
    need_program("git")
    env = {
        "GIT_SSH_COMMAND": " ".join(["ssh", *peer.via_proxy]),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        **{f"GIT_{who}_{what}": "t@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    origin, clone = tmp_path / "origin.git", tmp_path / "clone"
    for words in (
        ["init", "-q", "--bare", "-b", "main", str(origin)],
        ["clone", "-q", f"{peer.destination}:{origin}", str(clone)],
        ["-C", str(clone), "checkout", "-q", "-b", "main"],
    ):
        done = peer.cluster.run("git", *words, home=peer.user, env=env)
        assert done.returncode == 0, text(done)
    (clone / "large").write_bytes(os.urandom(2_000_000))
    for words in (["add", "large"], ["commit", "-q", "-m", "first"], ["push", "-q", "origin", "main"]):
        done = peer.cluster.run("git", "-C", clone, *words, home=peer.user, env=env)
        assert done.returncode == 0, text(done)
    log = peer.cluster.run("git", "-C", origin, "log", "--format=%s", "main", home=peer.user, env=env)
    assert log.stdout == b"first\n", text(log)


def test_by_jump_host(peer: Peer) -> None:
    """``ssh -J``, without tsh: the proxy is a jump host like any."""
    need_program("ssh")
    command = ["ssh", *peer.via_proxy]
    proxy = f"proxy.{peer.name.partition('.')[2]}"
    config = peer.config.read_text()
    # The printed block has tsh for its ProxyCommand, and ssh takes no -J beside one.
    plain = peer.config.with_name("without_tsh")
    plain.write_text("\n".join(line for line in config.splitlines() if "tsh proxy ssh" not in line))
    command[command.index(str(peer.config))] = str(plain)
    done = peer.cluster.run(*command, "-J", proxy, peer.destination, "echo jumped", home=peer.user)
    assert (done.returncode, done.stdout) == (0, b"jumped\n"), text(done)


def test_by_w(peer: Peer) -> None:
    """``ssh -W``: the proxy joins standard input and output with the node."""
    need_program("ssh")
    proxy = f"proxy.{peer.name.partition('.')[2]}"
    through = f"ProxyCommand=ssh -F {peer.config} -W %h:%p {proxy}"
    words = ["ssh", *peer.via_proxy, "-o", through, peer.destination, "echo through"]
    done = peer.cluster.run(*words, home=peer.user)
    assert (done.returncode, done.stdout) == (0, b"through\n"), text(done)
