"""``tsh run``: one command on several real nodes, one of which is away."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.terminal import Terminal
from tests.scenarios.cluster import BIN, LIMIT, Cluster, text, wait_for
from tinyport.host.console import NOT_FOUND, USAGE


class Fleet:
    """A quickstart cluster and two further nodes, ``shed`` and ``barn``; ``shed`` and the first have site=berlin."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = Cluster(folder)
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> Fleet:
        self.cluster.start()
        self.user = self.cluster.add_user("alice", self.cluster.login_name)
        for name, site in (("shed", "berlin"), ("barn", "paris")):
            made = self.cluster.tctl_json("tokens", "add", "--type", "node", "--labels", f"site={site}")
            words = ["start", "--roles=node", "--server", self.cluster.ready["proxy"], "--nodename", name]
            words += ["--token", made["token"], "--ca-pin", self.cluster.ready["ca_pin"]]
            words += ["--data-dir", str(self.folder / name), "-c", str(self._config(name))]
            with (self.folder / f"{name}.log").open("ab") as log:
                process = subprocess.Popen(
                    [str(BIN / "tinyport"), *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            self.nodes[name] = process
        for name in self.nodes:
            self.wait_for_status(name, "online")
        done = self.cluster.tctl("nodes", "label", self.cluster.node, "site=berlin")
        assert done.returncode == 0, text(done)
        return self

    def wait_for_status(self, name: str, status: str) -> None:
        wait_for(f"{name} to be {status}", lambda: self.cluster.node_status(name) == status)

    def _config(self, name: str) -> Path:
        path = self.folder / f"{name}.toml"
        path.write_text("[node]\nlisten = []\n")
        return path

    def run(self, *words: str, limit: float = LIMIT) -> subprocess.CompletedProcess[bytes]:
        return self.cluster.tsh("run", *words, home=self.user, limit=limit)

    def stop(self) -> None:
        for process in self.nodes.values():
            process.terminate()
        for process in self.nodes.values():
            process.wait(LIMIT)
        self.cluster.stop()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        yield made.start()
    finally:
        made.stop()


def test_by_label_and_by_name(fleet: Fleet) -> None:
    done = fleet.run("site=berlin", "--", "echo", "$TINYPORT_NODE;", "echo", "oops", ">&2")
    assert done.returncode == 0, text(done)
    here = fleet.cluster.node
    assert sorted(done.stdout.decode().splitlines()) == sorted([f"{here}: {here}", "shed: shed"])
    assert b"shed: oops\n" in done.stderr
    assert b"2 ok, 0 failed, 0 away" in done.stderr
    done = fleet.run("barn", "shed", "--parallel", "1", "--", "hostname > /dev/null; test $TINYPORT_NODE = shed")
    assert done.returncode == 1
    assert b"failed: status 1" in done.stderr
    assert b"1 ok, 1 failed, 0 away" in done.stderr


def test_json_says_what_came_of_each(fleet: Fleet) -> None:
    done = fleet.run("--format", "json", "barn", "shed", "--", "echo out; echo err >&2; kill -TERM $$")
    assert done.returncode == 1, text(done)
    found = json.loads(done.stdout)
    assert (found["ok"], found["failed"], found["away"]) == (0, 2, 0)
    first = found["nodes"][0]
    assert (first["node"], first["result"], first["signal"], first["status"]) == ("barn", "failed", "TERM", None)
    assert (first["stdout"], first["stderr"], first["truncated"]) == ("out\n", "err\n", False)


def test_files_of_each_node(fleet: Fleet, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done = fleet.run("--output-dir", str(folder), "barn", "shed", "--", "head -c 3000000 /dev/zero; exit 0")
    assert done.returncode == 0, text(done)
    assert sorted(path.name for path in folder.iterdir()) == ["barn.out", "shed.out"]
    assert (folder / "shed.out").stat().st_size == 3_000_000
    assert done.stdout == b""


def timed_out(fleet: Fleet, *words: str) -> tuple[str, subprocess.CompletedProcess[bytes]]:
    """A run whose time-out comes when the command runs already, however busy the machine is: (time-out, result)."""
    for seconds in (2, 8, 32):
        done = fleet.run("--timeout", f"{seconds}s", *words)
        if b"not reached" not in done.stdout + done.stderr:
            break
    return f"{seconds}s", done


def test_limits_and_mistakes(fleet: Fleet) -> None:
    after, done = timed_out(fleet, "barn", "--", "sleep 600")
    assert done.returncode == 1
    assert f"not done after {after}".encode() in done.stderr
    # What does not heed a hang-up ends all the same, and what heeds SIGTERM has its say.
    command = "trap '' HUP; trap 'echo put in order; exit 7' TERM; sleep 600 & wait"
    _, done = timed_out(fleet, "--format", "json", "barn", "--", command)
    found = json.loads(done.stdout)["nodes"][0]
    assert (found["code"], found["status"], found["stdout"]) == ("timeout", 7, "put in order\n"), text(done)
    for words, said, status in (
        (("barn",), b"which nodes, and what to run there?", USAGE),
        (("nowhere", "--", "true"), b"there is no node nowhere", NOT_FOUND),
        (("site=oslo", "--", "true"), b"no node matches", NOT_FOUND),
        (("--parallel", "0", "barn", "--", "true"), b"--parallel is from 1 to", USAGE),
        (("--timeout", "soon", "barn", "--", "true"), b"--timeout soon", USAGE),
        (("--login", "nobody-here", "barn", "--", "true"), b"is not one of yours", 255),
    ):
        done = fleet.run(*words)
        assert said in done.stderr, text(done)
        assert done.returncode == status, text(done)


def test_an_interrupt_ends_it_everywhere_and_says_so(fleet: Fleet, tmp_path: Path) -> None:
    words = [str(BIN / "tsh"), "run", "--format", "json", "--output-dir", str(tmp_path / "out"), "barn", "shed", "--"]
    command = "echo begun; exec sleep 600"
    running = subprocess.Popen(
        [*words, command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=fleet.cluster.env(fleet.user)
    )
    wait_for("the command on both", lambda: len(list(tmp_path.glob("out/*.out"))) == 2)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=LIMIT)
    assert (running.returncode, b"Traceback" in err) == (130, False), err
    assert [(one["result"], one["reason"]) for one in json.loads(out)["nodes"]] == [("failed", "interrupted")] * 2
    wait_for("the end of it there", lambda: not fleet.cluster.tctl_json("sessions", "ls")["sessions"])


def test_at_a_terminal(fleet: Fleet) -> None:
    words = [str(BIN / "tsh"), "run", "--parallel", "1", "barn", "shed", "--", "echo begun; exec sleep 600"]
    with Terminal(words, {**fleet.cluster.env(fleet.user), "NO_COLOR": "1"}, rows=10, columns=60) as terminal:
        terminal.expect(b"0 of 2 done, 0 ok, 1 waiting")
        # The table goes out of the way of a line, and comes back beneath it.
        shown = terminal.expect(b"barn: begun\r\n")
        assert shown.endswith(b"\x1b[2A\r\x1b[Jbarn: begun\r\n"), shown
        terminal.expect(b"0 of 2 done, 0 ok, 1 waiting")
        terminal.resize(24, 20)
        terminal.expect(b"0 of 2 done, 0 ok,\xe2\x80\xa6")
        terminal.resize(24, 80)
        terminal.expect(b"0 of 2 done, 0 ok, 1 waiting")
        terminal.type(b"\x03")
        terminal.expect(b"failed: interrupted")
        terminal.expect(b"failed: not begun")
        terminal.expect(b"0 ok, 2 failed, 0 away")
        assert terminal.wait() == 130


def test_nobody_reads_any_more(fleet: Fleet, tmp_path: Path) -> None:
    """``tsh run ... | head -1`` ends with the first line that nobody takes, on all nodes."""
    words = f"{BIN / 'tsh'} run barn shed -- 'while sleep 0.1; do echo tick; done' | head -1; echo ${{PIPESTATUS[0]}}"
    done = fleet.cluster.run("bash", "-c", words, home=fleet.user)
    assert done.stdout.splitlines()[1] == b"141", text(done)
    assert b"Traceback" not in done.stderr
    wait_for("the end of it there", lambda: not fleet.cluster.tctl_json("sessions", "ls")["sessions"])
    done = fleet.cluster.run("bash", "-c", f"{BIN / 'tsh'} run barn -- echo x > /dev/full", home=fleet.user)
    assert (done.returncode, b"no space left on device" in done.stderr) == (1, True), text(done)


def test_who_is_away_is_reported(fleet: Fleet) -> None:
    process = fleet.nodes.pop("barn")
    process.send_signal(signal.SIGTERM)
    process.wait(LIMIT)
    fleet.wait_for_status("barn", "offline")
    done = fleet.run("barn", "shed", "--", "echo here")
    assert done.returncode == 1
    assert done.stdout == b"shed: here\n"
    assert b"away: offline, last seen " in done.stderr
    done = fleet.run("barn", "--", "echo here")
    assert (done.returncode, done.stdout) == (255, b"")
