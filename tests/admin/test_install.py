"""``tinyport install``: the units, and sshd's port taken over without anybody being locked out."""

from __future__ import annotations

import os
import pwd
import re
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.admin.conftest import Ran
from tests.conftest import need_program
from tinyport.admin import install, replace_sshd, units
from tinyport.admin.main import main
from tinyport.admin.sshd_addresses import Listening
from tinyport.core.errors import OperatorError

PACKAGED = Path(__file__).parents[2] / "packaging" / "systemd"
#: what ``systemd-analyze security`` may say at most, as docs/install.md does (10 is the worst)
EXPOSURE = {units.SERVER: 16, units.NODE: 97}


@pytest.fixture
def tinyport(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str) -> Ran:
        status = main(list(words))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Ran(status, out, err)

    return run


# ------------------------------------------------------------------ the units


def test_the_files_of_packaging_are_the_units() -> None:
    made = units.units(("auth", "proxy", "node"))
    assert {path.name: path.read_text() for path in PACKAGED.glob("*.service")} == made


def test_other_paths_and_roles() -> None:
    found = units.units(("auth", "node"), "/opt/t/bin/tinyport", "/srv/t.toml")
    assert "ExecStart=/opt/t/bin/tinyport start --roles=auth -c /srv/t.toml\n" in found[units.SERVER]
    assert "StateDirectory=tinyport/auth\n" in found[units.SERVER]
    assert "ExecReload=/opt/t/bin/tinyport check-config /srv/t.toml\n" in found[units.NODE]
    assert not any("/usr/bin/tinyport" in text or "/etc/tinyport/tinyport.toml" in text for text in found.values())
    assert list(units.units(("node",))) == [units.NODE]
    assert "ListenStream=22\nListenStream=2222\n" in units.socket_unit(["22", "2222"])
    assert "ListenStream=3022" not in units.socket_unit(["22"])
    assert "FreeBind" not in units.socket_unit(["22"])
    assert "FreeBind=yes\nBindIPv6Only=ipv6-only\n" in units.socket_unit(["22", "[::]:222"], only_ipv6=True)


def checked_units(folder: Path) -> list[str]:
    """All units of ours in ``folder``, running a program that is there. Returns their paths."""
    found = {
        **units.units(("auth", "proxy", "node"), program="/bin/true"),
        units.SOCKET: units.socket_unit(["22", "127.0.0.1:222"]),
    }
    for name, text in found.items():
        (folder / name).write_text(text)
    return [str(folder / name) for name in found]


def test_the_units_are_good_ones(tmp_path: Path) -> None:
    analyze = need_program("systemd-analyze")
    done = subprocess.run(
        [analyze, "verify", "--man=no", *checked_units(tmp_path)], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if "tinyport" in line] == []


@pytest.mark.parametrize("name", [units.SERVER, units.NODE])
def test_what_the_units_expose_is_what_the_documentation_says(name: str, tmp_path: Path) -> None:
    analyze = need_program("systemd-analyze")
    checked_units(tmp_path)
    words = [analyze, "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE[name]}", str(tmp_path / name)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
    figure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert figure is not None, done.stdout
    documented = (PACKAGED.parents[1] / "docs/install.md").read_text()
    assert f"`{name}` {figure[1]}" in documented


def test_the_accounts_are_those_that_the_programs_use(tmp_path: Path) -> None:
    source = PACKAGED / "tinyport.sysusers"
    named = [line.split()[1] for line in source.read_text().splitlines() if line.startswith("u ")]
    assert named == [units.ACCOUNT, units.WORKER_ACCOUNT]
    (tmp_path / "etc").mkdir()
    done = subprocess.run(
        [need_program("systemd-sysusers"), f"--root={tmp_path}", str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = (tmp_path / "etc/passwd").read_text()
    assert re.search(r"^tinyport:x:\d+:\d+:.*:/nonexistent:/usr/sbin/nologin$", made, re.M)


@pytest.mark.root
def test_the_folders_are_made_on_an_empty_machine(tmp_path: Path) -> None:
    source = PACKAGED / "tinyport.tmpfiles"
    words = [need_program("systemd-tmpfiles"), "--create", f"--root={tmp_path}", str(source)]
    subprocess.run(words, capture_output=True, text=True, check=True)
    for folder in ("etc/tinyport", "var/lib/tinyport"):
        assert (tmp_path / folder).stat().st_mode & 0o7777 == 0o755


def test_a_unit_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(units, "_SOURCE", tmp_path)
    with pytest.raises(OperatorError, match=r"came without tinyport-node\.service"):
        units.units(("node",))


# ------------------------------------------------------------------ installing


def test_installing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[list[str]] = []
    for name in ("ACCOUNT", "WORKER_ACCOUNT"):
        monkeypatch.setattr(units, name, pwd.getpwuid(os.getuid()).pw_name)
    config = tmp_path / "tinyport.toml"
    config.touch(0o600)
    found = units.units(("auth", "node"), "/opt/tinyport/bin/tinyport", str(config))
    install.install(found, config, tmp_path, lambda words: done.append(list(words)))
    assert (tmp_path / units.SERVER).read_text() == found[units.SERVER]
    assert (tmp_path / units.NODE).read_text() == found[units.NODE]
    assert config.stat().st_mode & 0o777 == 0o640
    assert [words[:2] for words in done] == [["systemctl", word] for word in ("daemon-reload", "enable", "restart")]


def test_what_the_package_brought_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "PACKAGED", PACKAGED)
    install.install(units.units(("node",)), tmp_path / "t.toml", tmp_path, lambda words: None)
    assert list(tmp_path.iterdir()) == []
    install.install(units.units(("node",), "/opt/tinyport"), tmp_path / "t.toml", tmp_path, lambda words: None)
    assert [path.name for path in tmp_path.iterdir()] == [units.NODE]


def test_accounts_are_made_for_what_faces_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "ACCOUNT", "no-such-account")
    monkeypatch.setattr(units, "WORKER_ACCOUNT", "no-such-worker")
    done: list[Sequence[str]] = []
    install.install(units.units(("node",)), tmp_path / "t.toml", tmp_path, done.append)
    assert [(words[0], words[-1]) for words in done[:2]] == [
        ("useradd", "no-such-account"),
        ("useradd", "no-such-worker"),
    ]


def test_what_cannot_be_installed(tmp_path: Path, tinyport: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.toml"
    path.write_text("")
    assert "enables no role" in tinyport("install", "-c", str(path)).err
    path.write_text('[tinyport]\ndata_dir = "/srv"\n[auth]\ncluster_name = "c"\n')
    refused = tinyport("install", "-c", str(path)).err
    assert "the server's unit keeps its data in /var/lib/tinyport" in refused
    assert 'what "tinyport install --print" shows' in refused
    assert "there is no" in tinyport("install").err
    with pytest.raises(OperatorError, match="name simply"):
        install._safe("/opt/50%/tinyport")
    path.write_text("[node]\nlisten = []\n")
    monkeypatch.setattr(install, "_program", lambda: "/usr/bin/tinyport")
    monkeypatch.setattr(install, "SYSTEMD_RUNS", tmp_path / "nowhere")
    other = tmp_path / "other.toml"
    other.write_text('[tinyport]\ndata_dir = "/srv"\n[auth]\ncluster_name = "c"\n')
    assert "# /etc/systemd/system/tinyport" in tinyport("install", "-c", str(other), "--print").out
    assert "does not run systemd" in tinyport("install", "-c", str(path)).err
    assert "# /etc/systemd/system/tinyport-node.service\n" in tinyport("install", "-c", str(path), "--print").out


def test_on_openwrt_the_packages_service_is_enabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[list[str]] = []
    script = tmp_path / "tinyport"
    monkeypatch.setattr(install, "INIT_SCRIPT", script)
    with pytest.raises(OperatorError, match="there is no"):
        install.procd(lambda words: done.append(list(words)))
    assert done == []
    script.touch()
    assert install.procd(lambda words: done.append(list(words))) == 0
    assert done[0] == ["uci", "set", "tinyport.node.enabled=1"]
    assert done[-2:] == [[str(script), "enable"], [str(script), "restart"]]


# ------------------------------------------------------------------ replacing sshd


class Machine:
    """A machine's services as ``systemctl`` shows them: what runs, what is enabled, and what was asked for."""

    def __init__(self, *, broken: str = "") -> None:
        self.running = {"ssh.service", units.NODE}
        self.enabled = {"ssh.service", units.NODE}
        self.broken = broken
        self.asked: list[str] = []

    def ask(self, words: Sequence[str]) -> bool:
        # Debian's alias.
        return words[-1].replace("sshd", "ssh") in {"is-active": self.running, "is-enabled": self.enabled}[words[1]]

    def execute(self, words: Sequence[str]) -> None:
        self.asked.append(" ".join(words))
        _, verb, *names = words
        if "sshd.service" in names:
            raise OperatorError("Refusing to operate on alias name or linked unit file: sshd.service")
        now = "--now" in names
        names = [name for name in names if name != "--now"]
        if self.broken and f"{verb} {names[0] if names else ''}" == self.broken:
            raise OperatorError(f"{' '.join(words)} failed")
        if verb in ("start", "restart"):
            self.running |= set(names)
        elif verb == "enable":
            self.enabled |= set(names)
        elif verb in ("stop", "disable"):
            if verb == "stop" or now:
                self.running -= set(names)
            if verb == "disable":
                self.enabled -= set(names)


def test_the_node_takes_sshds_ports(tmp_path: Path) -> None:
    machine = Machine()
    tried: list[str] = []

    def answers(stream: str) -> bool:
        tried.append(stream)
        return True

    stopped = replace_sshd.take_over(
        Listening(("22", "192.0.2.1:2222")), tmp_path, machine.execute, machine.ask, answers
    )
    assert stopped == ["ssh.service"]
    assert tried == ["22", "192.0.2.1:2222"]
    assert machine.running == {units.NODE, units.SOCKET}
    assert machine.enabled == {units.NODE, units.SOCKET}
    text = units.socket_unit(["22", "192.0.2.1:2222"])
    assert (tmp_path / units.SOCKET).read_text() == f"# In place of: ssh.service\n{text}"
    assert "s/^# In place of: //p" in (PACKAGED.parent / "debian/tinyport-node.postrm").read_text()
    # The port must be free before the socket is there, and the service must be away when it comes.
    order = [
        machine.asked.index(f"systemctl {words}")
        for words in (
            "stop ssh.service",
            f"stop {units.NODE}",
            f"restart {units.SOCKET}",
            f"start {units.NODE}",
            f"enable {units.SOCKET}",
            # Whenever the machine goes down, what is enabled has a way in.
            "disable ssh.service",
        )
    ]
    assert order == sorted(order)


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "daemon-reload ",
        "disable ssh.service",
        "stop ssh.service",
        f"enable {units.SOCKET}",
        f"restart {units.SOCKET}",
        f"start {units.NODE}",
    ],
)
@pytest.mark.parametrize("before", [None, "[Socket]\nListenStream=3022\n"])
def test_sshd_is_back_when_the_node_does_not_answer(broken: str, before: str | None, tmp_path: Path) -> None:
    machine = Machine(broken=broken)
    answers = broken.startswith(("enable", "disable"))
    path = tmp_path / units.SOCKET
    if before is not None:
        path.write_text(before)

    def execute(words: Sequence[str]) -> None:
        try:
            machine.execute(words)
        finally:
            # What failed once may work the next time.
            if machine.broken and " ".join(words[1:3]).startswith(machine.broken.strip()):
                machine.broken = ""

    with pytest.raises(OperatorError, match="sshd is back"):
        replace_sshd.take_over(Listening(("22",)), tmp_path, execute, machine.ask, lambda _: answers)
    assert machine.running == {"ssh.service", units.NODE}
    assert machine.enabled == {"ssh.service", units.NODE}
    assert (path.read_text() if path.exists() else None) == before


def test_a_socket_of_the_nodes_own_is_back_as_well(tmp_path: Path) -> None:
    machine = Machine()
    machine.running.add(units.SOCKET)
    machine.enabled.add(units.SOCKET)
    with pytest.raises(OperatorError, match="sshd is back"):
        replace_sshd.take_over(Listening(("22",)), tmp_path, machine.execute, machine.ask, lambda _: False)
    assert machine.running == machine.enabled == {"ssh.service", units.NODE, units.SOCKET}


def test_once_replaced_there_is_nothing_to_do_but_what_a_reboot_cut_off() -> None:
    machine = Machine()
    machine.running.add(units.SOCKET)
    assert not replace_sshd.replaced(machine.execute, machine.ask)
    machine.running.remove("ssh.service")
    for _ in range(2):
        assert replace_sshd.replaced(machine.execute, machine.ask)
    assert machine.asked == ["systemctl disable ssh.service"]
    machine.running.remove(units.SOCKET)
    assert not replace_sshd.replaced(machine.execute, machine.ask)


def test_the_way_back_is_to_what_there_was() -> None:
    assert replace_sshd.way_back(["ssh.socket", "ssh.service"]).endswith("&& systemctl enable --now ssh.socket")
    line = re.search("^# (systemctl disable .* ssh)$", (PACKAGED.parents[1] / "docs/install.md").read_text(), re.M)
    assert line is not None
    assert replace_sshd.way_back(["ssh.service"]) == line[1]


def test_when_not_even_that_works_it_is_said(tmp_path: Path) -> None:
    machine = Machine()

    def execute(words: Sequence[str]) -> None:
        if words[1:3] == ["start", "ssh.service"]:
            raise OperatorError("no")
        machine.execute(words)

    with pytest.raises(OperatorError, match="could not be started again: no"):
        replace_sshd.take_over(Listening(("22",)), tmp_path, execute, machine.ask, lambda _: False)
    assert units.NODE in machine.running


def process(proc: Path, pid: int, parent: int, name: str, uid: int) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "comm").write_text(f"{name}\n")
    (proc / str(pid) / "status").write_text(f"Name:\t{name}\nPPid:\t{parent}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")


def test_only_a_session_of_the_node_is_a_proof(tmp_path: Path) -> None:
    process(tmp_path, 100, 1, replace_sshd.KEEPER, 0)
    process(tmp_path, 101, 100, "bash", 1000)
    process(tmp_path, 102, 101, "sudo", 0)
    process(tmp_path, 103, 102, "tinyport", 0)
    assert replace_sshd.in_a_session(103, tmp_path)
    process(tmp_path, 200, 1, "sshd", 0)
    process(tmp_path, 201, 200, "bash", 1000)
    assert not replace_sshd.in_a_session(201, tmp_path)
    # Anybody may call a process of theirs so.
    process(tmp_path, 300, 1, replace_sshd.KEEPER, 1000)
    process(tmp_path, 301, 300, "bash", 1000)
    assert not replace_sshd.in_a_session(301, tmp_path)
    assert not replace_sshd.in_a_session(4242, tmp_path)
    process(tmp_path, 400, 400, "loop", 0)
    assert not replace_sshd.in_a_session(400, tmp_path)
    assert not replace_sshd.in_a_session(os.getpid())


@pytest.mark.parametrize(
    ("banner", "good"), [(b"SSH-2.0-tinyport_0.1.0 abc\r\n", True), (b"SSH-2.0-OpenSSH_9.2\r\n", False)]
)
def test_who_answers_is_asked(banner: bytes, good: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            # A node that is still starting may leave without a word: it is asked again.
            for words in (b"", banner):
                with server.accept()[0] as stream:
                    stream.recv(64)
                    stream.sendall(words)

        thread = threading.Thread(target=answer)
        thread.start()
        stream = f"127.0.0.1:{server.getsockname()[1]}"
        assert replace_sshd.node_answers(stream) == good
        thread.join()
    assert not replace_sshd.node_answers(stream, limit=0.3)


def test_the_steps_of_a_person(tmp_path: Path, tinyport: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside sshd at first; in a session, apart from that session; and what that runs is this program again."""
    path = tmp_path / "t.toml"
    path.write_text("[node]\nlisten = []\n")
    done: list[list[str]] = []
    monkeypatch.setattr(install, "_program", lambda: "/usr/bin/tinyport")
    monkeypatch.setattr(install, "SYSTEMD_RUNS", tmp_path)
    monkeypatch.setattr(install, "UNIT_FOLDER", tmp_path)
    monkeypatch.setattr(install, "_execute", lambda words: done.append(list(words)))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(replace_sshd, "ask", lambda words: "ssh.service" in words)
    words = ("install", "-c", str(path), "--replace-sshd")
    assert "which stays until a login through tinyport has worked" in tinyport(*words).out
    assert not any("ssh.service" in word for command in done for word in command)
    done.clear()
    monkeypatch.setattr(replace_sshd, "in_a_session", lambda pid: True)
    said = tinyport(*words).out
    assert "the node has its ports" in said
    assert said.endswith("&& systemctl enable --now ssh\n")
    assert done == [
        replace_sshd.in_a_unit(["/usr/bin/tinyport", "install", "-c", str(path), "--replace-sshd", "--now"])
    ]
    path.write_text('[auth]\ncluster_name = "c"\n')
    assert "no node that could replace sshd" in tinyport(*words).err


def test_systemd_run_knows_our_words() -> None:
    program = need_program("systemd-run")
    known = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    for word in replace_sshd.in_a_unit([])[1:]:
        assert word.partition("=")[0] in known
