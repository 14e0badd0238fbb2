"""The tinyport command without its daemons: configuration, status, installing."""

from __future__ import annotations

import argparse
import io
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.admin.conftest import PIN, TOKEN, Ran
from tinyport.admin import config_file
from tinyport.admin.main import build_parser, main
from tinyport.admin.reread import again
from tinyport.admin.start_command import overridden, with_credential
from tinyport.admin.status_command import ask_monitor, node_lines, state_of
from tinyport.admin.token_input import read_token
from tinyport.core.config import SECTIONS, parse_config
from tinyport.core.errors import ConfigError, TinyportError
from tinyport.host.sd_notify import notify

NOW = 1_800_000_000.0
USER_CA = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICYIXURDWrJnXDPjmzjxNSYXKUO+Tu/aprLnl+Gxqp8b user-ca@partner.example"
PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def tinyport(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str) -> Ran:
        status = main(list(words))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Ran(status, out, err)

    return run


def parsed(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(["start", *words])


# ------------------------------------------------------------------ configuration


def test_the_command_line_is_put_over_the_file(tmp_path: Path) -> None:
    document = {"tinyport": {"nodename": "a", "log": {"format": "json"}}, "auth": {"cluster_name": "c"}, "node": {}}
    args = parsed(
        *("--roles=node", "--server", "h:1", "--token", TOKEN, "--ca-pin", PIN, "--nodename", "b"),
        *("--labels", "x=y,z=", "--data-dir", "d", "-d"),
    )
    assert overridden(document, args) == {
        "tinyport": {
            "nodename": "b",
            "log": {"format": "json", "level": "debug"},
            "data_dir": os.path.abspath("d"),
            "server": "h:1",
            "ca_pin": [PIN],
            "token": TOKEN,
        },
        "auth": {"cluster_name": "c", "enabled": False},
        "node": {"enabled": True, "labels": {"x": "y", "z": ""}},
    }


def test_a_token_may_be_the_name_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text(TOKEN)

    def taken(text: str) -> object:
        return overridden({}, parsed("--token", text))["tinyport"]["token"]

    assert taken("./gone") == {"path": str(tmp_path / "gone")}
    assert taken("token") == {"path": str(tmp_path / "token")}
    assert taken("neither") == "neither"
    assert taken(TOKEN) == TOKEN


def test_sections_that_are_none_are_left_for_the_check() -> None:
    with pytest.raises(TinyportError, match="must be a section"):
        config_file.check(overridden({"tinyport": 7, "node": []}, parsed("--roles=node", "--server", "h:1")), "t")


@pytest.mark.parametrize("words", [("--roles=nod",), ("--roles=,",), ("--labels", "x")])
def test_wrong_usage(words: tuple[str, ...], tinyport: Any) -> None:
    ran = tinyport("start", *words)
    assert ran.status == 2
    assert "hint" in ran.err


def test_nothing_to_start(tinyport: Any) -> None:
    ran = tinyport("start")
    assert ran.status == 1
    assert "no role is enabled" in ran.err


def test_a_node_that_is_not_told_where_its_cluster_is(tinyport: Any, tmp_path: Path) -> None:
    ran = tinyport("start", "--roles=node", "--data-dir", str(tmp_path))
    assert ran.status == 1
    assert "not told where its cluster is" in ran.err


def test_check_config_names_every_problem(tinyport: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text('[tinyport]\nnodname = "x"\n[node]\nworker_idle = "soon"\n')
    ran = tinyport("check-config", str(path))
    assert ran.status == 1
    assert [line.split(": ")[1] for line in ran.err.splitlines()] == ["error", "error"]
    assert f"{path}:2: tinyport.nodname: unknown key; did you mean 'nodename'?" in ran.err
    assert f"{path}:4: node.worker_idle is 'soon': must be a duration" in ran.err
    path.write_text("[node]\nenabled = true\n")
    assert tinyport("check-config", str(path)).out == f"{path}: good; roles: node\n"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[node", "t.toml"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"x = " + b"[" * 9999, "t.toml"),
        (b"x = " + b"9" * 9999, "t.toml"),
    ],
)
def test_a_file_that_is_no_toml(data: bytes, said: str, tinyport: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_bytes(data)
    ran = tinyport("check-config", str(path))
    assert (ran.status, said in ran.err) == (1, True)


def test_a_file_that_is_not_there(tinyport: Any) -> None:
    ran = tinyport("check-config", "/nowhere/t.toml")
    assert (ran.status, "cannot read /nowhere/t.toml: no such file" in ran.err) == (1, True)


def test_configure_writes_what_it_can_read(tinyport: Any, tmp_path: Path) -> None:
    path = tmp_path / "tinyport.toml"
    words = (
        "--roles",
        "node",
        "--server",
        "h:443",
        "--token",
        TOKEN,
        "--ca-pin",
        PIN,
        "--labels",
        'm="x\\',
    )
    assert tinyport("configure", *words, "--nodename", "pi-{serial}", "-o", str(path)).status == 0
    config = config_file.load(path)
    assert (config.roles, config.tinyport.token, config.tinyport.server) == (("node",), TOKEN, ("h", 443))
    assert config.node.labels == {"m": '"x\\'}
    assert path.stat().st_mode & 0o777 == 0o600
    again = tinyport("configure", *words, "-o", str(path))
    assert (again.status, "is there already" in again.err) == (1, True)


def test_configure_for_a_server(tinyport: Any, tmp_path: Path) -> None:
    words = ("--roles", "auth,proxy", "--cluster-name", "farm.example", "--public-addr", "port.example.com:443")
    text = tinyport("configure", *words).out
    config = config_file.check(config_file.parse_toml(text, "t"), "t")
    assert config.roles == ("auth", "proxy")
    assert config.proxy.public_addr == ("port.example.com:443",)


def test_configure_shows_every_key_and_its_examples_are_good(tinyport: Any, tmp_path: Path) -> None:
    lines = tinyport("configure", "--roles", "auth,proxy,node").out.splitlines()
    document = config_file.parse_toml("\n".join(line.removeprefix("# ") for line in lines), "t")
    missing = {name: set(keys) - set(document[name]) for name, keys in SECTIONS.items()}
    assert missing == {name: set() for name in SECTIONS}

    def read(path: str) -> str:
        return USER_CA if path.endswith(".pub") else PASSPHRASE if path == "/a/file" else TOKEN

    document["tinyport"]["ca_pin"] = document["trusted_clusters"][0]["ca_pin"] = PIN
    assert parse_config(document, "t", read).roles == ("auth", "proxy", "node")


def test_configure_keeps_what_it_is_told(tinyport: Any, tmp_path: Path) -> None:
    words = ("--diag-addr", "127.0.0.1:3100", "--data-dir", "/data/tinyport", "--nodename", "port-2")
    text = tinyport("configure", "--roles", "proxy", *words).out
    general = config_file.check(config_file.parse_toml(text, "t"), "t").tinyport
    assert (general.diag_addr, general.data_dir, general.nodename) == (("127.0.0.1", 3100), "/data/tinyport", "port-2")


def test_configure_refuses_what_would_not_be_read(tinyport: Any) -> None:
    ran = tinyport("configure", "--roles", "node", "--ca-pin", "sha256:12", "--nodename", "A B")
    assert ran.status == 1
    assert ran.err.count("error") == 2
    assert ran.out == ""


# ------------------------------------------------------------------ status


STATUS = {
    "version": "0.1.0",
    "name": "greenhouse",
    "uuid": "0c9a7f4e-0000-4000-8000-000000000001",
    "cluster": "farm.example",
    "tunnel": {"tunnel": "up", "since": NOW - 200, "server": "port.example.com:443", "reason": None},
    "listen": ["[::]:3022"],
    "valid_before": NOW + 6 * 86400,
    "generation": 3,
    "keys": {"in_memory": False, "locked": False, "unsaved": ""},
    "skew": -120.0,
    "pids": {"monitor": 10, "link": 11, "keeper": None, "workers": []},
    "memory": {"10": {"pss": 6_000_000, "private": 4_000_000}, "11": {"pss": 5_500_000, "private": 3_300_000}},
}


def test_memory_that_the_kernel_does_not_tell_is_not_counted_as_none() -> None:
    told = STATUS["memory"]
    assert isinstance(told, dict)
    memory: dict[str, object] = {**told, "12": {}}
    line = next(line for line in node_lines({**STATUS, "memory": memory}, NOW) if line.startswith("memory"))
    assert line == "memory:       11.5 MB (PSS), 7.3 MB private; without 12, of which only root is told"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"in_memory": True, "locked": True}, "in memory alone, out of swap"),
        ({"in_memory": True, "locked": False}, "in memory alone, and may be swapped"),
        ({"unsaved": "read-only file system"}, "newer in memory than on the disk: read-only file system"),
        ({}, "the node does not say"),
    ],
)
def test_where_the_keys_are(keys: dict[str, object], said: str) -> None:
    (line,) = [line for line in node_lines({**STATUS, "keys": keys}, NOW) if line.startswith("keys:")]
    assert line.split(None, 1)[1] == said


def test_the_status_of_a_node_in_words() -> None:
    old = {"pid": 9, "version": "0.0.9", "sessions": 1}
    lacks = {"11": [], "12": ["no filter of system calls", "the system's files"]}
    assert node_lines({**STATUS, "sessions": 2, "old_keepers": [old], "lacks": lacks}, NOW) == [
        "node:         greenhouse 0c9a7f4e-0000-4000-8000-000000000001",
        "cluster:      farm.example",
        "tunnel:       up for 3 minutes, through port.example.com:443",
        "listens:      [::]:3022",
        "certificate:  generation 3, ends in 6 days",
        "keys:         on the disk",
        "clock:        2 minutes behind the cluster's",
        "processes:    monitor 10, link 11",
        "sessions:     2; 1 with keeper 9 of an earlier daemon (version 0.0.9)",
        "memory:       11.5 MB (PSS), 7.3 MB private",
        "confined:     but for 12 (no filter of system calls, the system's files)",
        "version:      0.1.0",
    ]
    (confined,) = [line for line in node_lines({**STATUS, "lacks": {"11": []}}, NOW) if line.startswith("confined")]
    assert confined == "confined:     completely"


@pytest.mark.parametrize("status", [{}, {"tunnel": 7, "memory": {"1": "x"}, "pids": [], "skew": "x", "listen": None}])
def test_a_status_of_another_version_is_shown_all_the_same(status: dict[str, object]) -> None:
    assert len(node_lines(status, NOW)) == 12


def test_who_waits_to_be_let_in_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    body = {"uuid": "x", "state": "pending"}
    for text in ("", "[]", "{", json.dumps({"document": 5}), json.dumps({"document": "[]"})):
        (tmp_path / "node" / "node.json").write_text(text)
        assert state_of(tmp_path, "x") is None
    (tmp_path / "node" / "node.json").write_text(json.dumps({"document": json.dumps(body)}))
    # One of another node is from before.
    assert (state_of(tmp_path, "x"), state_of(tmp_path, "y"), state_of(tmp_path / "no", "x")) == ("pending", None, None)
    line = "state:        waits for an administrator: tctl nodes accept pi"
    assert line in node_lines({**STATUS, "name": "pi", "state": "pending"}, NOW)
    assert not [line for line in node_lines({**STATUS, "state": "active"}, NOW) if line.startswith("state")]


def test_asking_a_monitor(tmp_path: Path, tinyport: Any) -> None:
    # Longer than an address has room for.
    data_dir = tmp_path / ("x" * 100)
    (data_dir / "node").mkdir(parents=True)
    folder = os.open(data_dir / "node", os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{folder}/monitor.sock")
        listener.listen()

        def answer() -> None:
            stream, _ = listener.accept()
            with stream:
                stream.sendall(b'{"name": "greenhouse"}')

        thread = threading.Thread(target=answer)
        thread.start()
        ran = tinyport("status", "--data-dir", str(data_dir), "--format", "json")
        thread.join()
    os.close(folder)
    assert ran.json == {"name": "greenhouse", "state": None}
    with pytest.raises(TinyportError, match="no node is running"):
        ask_monitor(data_dir)
    assert "there is no node" in tinyport("status", "--data-dir", str(tmp_path)).err


def test_the_status_of_a_session(tinyport: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 5000 10.0.0.7 22")
    monkeypatch.setenv("TINYPORT_USER", "alice\x1b[31m")
    monkeypatch.setenv("TINYPORT_NODE", "greenhouse")
    out = tinyport("status").out
    assert "\x1b" not in out
    assert "node:" in out
    assert "greenhouse" in out


def test_what_the_command_line_says_can_be_said_again(tmp_path: Path) -> None:
    """A reload repeats it: every option that ``overridden`` asks for is one that is kept."""
    _, task = again(tmp_path / "t.toml", parsed("--nodename", "b", "--data-dir", str(tmp_path)))
    words = task["words"]
    assert isinstance(words, dict)
    found = overridden({"node": {}}, argparse.Namespace(**words))
    assert found["tinyport"] == {"nodename": "b", "data_dir": str(tmp_path)}


def test_a_token_may_be_a_credential_of_systemds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_credential({"node": {}}) == {"node": {}}
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert with_credential({"node": {}}) == {"node": {}}
    (tmp_path / "tinyport.token").write_text(TOKEN)
    found = with_credential({"tinyport": {"server": "h:1"}})
    assert found == {"tinyport": {"server": "h:1", "token": {"path": str(tmp_path / "tinyport.token")}}}
    assert config_file.check(found, "t.toml").tinyport.token == TOKEN
    named = {"tinyport": {"token": "a.b"}}
    assert with_credential(named) == named


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify("READY=1")
        assert listener.recv(100) == b"READY=1"
    notify("READY=1")


def test_version(tinyport: Any) -> None:
    assert tinyport("version", "--format", "json").json["version"] == tinyport("version").out.split()[1]


def test_a_passphrase_may_be_a_credential_of_systemds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    path = tmp_path / "tinyport.key-passphrase"
    path.write_text("words and words\n")
    found = with_credential({"auth": {"cluster_name": "farm"}})
    assert found["auth"] == {"cluster_name": "farm", "key_passphrase": {"path": str(path)}}
    assert config_file.check(found, "t.toml").auth.key_passphrase == "words and words"
    # It is auth's alone: without that section nobody is told of it.
    assert with_credential({"node": {}}) == {"node": {}}
    named = {"auth": {"key_passphrase": {"path": "/elsewhere"}}}
    assert with_credential(named) == named
    with pytest.raises(ConfigError, match=r"must be \{ path"):
        config_file.check({"auth": {"cluster_name": "farm", "key_passphrase": "in the file itself"}}, "t.toml")


@pytest.mark.parametrize("given", [f"{TOKEN}\n", f"  {TOKEN}  \nand more\n", TOKEN])
def test_a_token_comes_on_standard_input(
    tinyport: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    path = tmp_path / "tinyport.toml"
    words = ("--roles", "node", "--server", "h:443", "--token", "-", "--ca-pin", PIN, "-o", str(path))
    assert tinyport("configure", *words).status == 0
    assert config_file.load(path).tinyport.token == TOKEN


@pytest.mark.parametrize("given", ["", "\n", "x" * 400])
def test_no_token_on_standard_input(tinyport: Any, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    for command in ("configure", "start"):
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        words = ("--roles", "node", "--server", "h:443", "--token", "-", "--ca-pin", PIN)
        ran = tinyport(command, *words)
        assert (ran.status, "no token on standard input" in ran.err) == (2, True)


def test_a_token_is_asked_for_without_an_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def getpass(prompt: str) -> str:
        asked.append(prompt)
        return f"{TOKEN} "

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", getpass)
    assert (read_token("-"), read_token("x.y"), read_token(None), asked) == (TOKEN, "x.y", None, ["join token: "])


def test_on_openwrt_the_configuration_is_what_uci_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made.toml"
    monkeypatch.setattr(config_file, "OF_UCI", made)
    assert config_file.running_path(None) is None
    made.write_text(f'[tinyport]\ndata_dir = "{tmp_path}/router"\n')
    assert main(["status"]) == 1
    assert f"there is no node in {tmp_path}/router" in capsys.readouterr().err
    # Whoever wrote a file, or names one, means that one.
    monkeypatch.setattr(config_file, "DEFAULT", tmp_path / "written.toml")
    (tmp_path / "written.toml").touch()
    assert config_file.running_path(None) == tmp_path / "written.toml"
    assert config_file.running_path("named.toml") == Path("named.toml")
