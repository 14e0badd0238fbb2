"""The launcher up to the point where it becomes the monitor, and the process that enrols."""

from __future__ import annotations

import json
import os
import pwd
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.link.test_enrolment import TOKEN, TinyAuth, host_key
from tests.node.tiny_cluster import Cluster
from tinyport.core.errors import AccessDenied, ConfigError, OperatorError, PeerError, TinyportError, Unavailable
from tinyport.host import identity_file
from tinyport.host.logging_line import Log
from tinyport.node import enrol, identity_view, launcher, refused
from tinyport.node.python_process import search_path
from tinyport.node.settings import LabelCommand, NodeSettings

OTHER = "qrstuvwxyz." + "a" * 26


class Became(Exception):
    """Raised in place of exec: what would have been run."""


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def auth(cluster: Cluster) -> Iterator[TinyAuth]:
    made = TinyAuth(cluster)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _no_exec(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def execv(path: str, argv: list[str]) -> None:
        raise Became(argv[-1])

    limits = resource.getrlimit(resource.RLIMIT_CORE)
    monkeypatch.setattr(os, "execv", execv)
    yield
    resource.setrlimit(resource.RLIMIT_CORE, limits)


def settings(tmp_path: Path, server: tuple[str, int] = ("127.0.0.1", 1), **changes: Any) -> NodeSettings:
    values: dict[str, Any] = {"user": "nobody", "log_level": "error", **changes}
    return NodeSettings(data_dir=tmp_path, nodename="shed", server=server, **values)


def become(settings: NodeSettings) -> dict[str, Any]:
    """Run the launcher; returns the configuration that the monitor would have been given."""
    with pytest.raises(Became) as caught:
        launcher.run(settings)
    descriptor = int(str(caught.value).rpartition("main(")[2].rstrip(")"))
    found: dict[str, Any] = json.loads(os.pread(descriptor, 1 << 20, 0))
    for inherited in (descriptor, *found["view"]):
        assert os.get_inheritable(inherited)
    os.close(descriptor)
    return found


def test_a_joined_node_becomes_the_monitor_at_once(cluster: Cluster, tmp_path: Path) -> None:
    identity = cluster.joined(tmp_path, ("127.0.0.1", 1))
    made = settings(
        tmp_path,
        listen=(("127.0.0.1", 3022),),
        labels=(("model", "pi4"),),
        commands=(LabelCommand("up", ("uptime", "-p"), 300.0),),
    )
    found = become(made)
    assert found["listen"] == [["127.0.0.1", 3022]]
    assert found["labels"] == {"model": "pi4"}
    assert found["commands"] == [["up", ["uptime", "-p"], 300.0]]
    assert found["folder"] == str(tmp_path / "node")
    public, secret = found["view"]
    assert identity_view.read_public(public)["uuid"] == identity["uuid"]
    shown = os.pread(public, 1 << 20, 0) + os.pread(secret, 1 << 20, 0)
    assert b"OPENSSH" not in shown
    assert str(identity["tls_key"]).strip().encode() in os.pread(secret, 1 << 20, 0)
    assert b"PRIVATE" not in os.pread(public, 1 << 20, 0)
    for descriptor in (public, secret):
        os.close(descriptor)


def test_a_new_node_joins_first(auth: TinyAuth, tmp_path: Path) -> None:
    found = become(settings(tmp_path, auth.address, token=TOKEN, ca_pins=(auth.cluster.pin,)))
    identity = identity_file.load(tmp_path / "node" / "identity.json")
    assert identity_view.read_public(found["view"][0])["uuid"] == identity["uuid"]
    for descriptor in found["view"]:
        os.close(descriptor)


def test_the_boards_serial_number_is_told_when_joining(auth: TinyAuth, tmp_path: Path) -> None:
    told = {"token": TOKEN, "ca_pins": (auth.cluster.pin,)}
    close(become(settings(tmp_path / "a", auth.address, serial="10000000abcdef01", **told)))
    assert auth.requests[-1][1]["serial"] == "10000000abcdef01"
    close(become(settings(tmp_path / "b", auth.address, **told)))
    assert "serial" not in auth.requests[-1][1]


def test_the_token_is_erased_once_it_has_done_its_work(auth: TinyAuth, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    there = os.open(token, os.O_RDONLY)
    told = settings(tmp_path, auth.address, token=TOKEN, token_file=token, ca_pins=(auth.cluster.pin,))
    close(become(told))
    assert not token.exists()
    # Not only its name is gone.
    assert os.pread(there, 100, 0).strip(b"\0") == b""
    os.close(there)
    # The power failed before that: erased at the next start, when it is not needed any more.
    token.write_text(TOKEN)
    close(become(told))
    assert not token.exists()


def test_a_token_that_cannot_be_erased_keeps_nobody_from_joining(auth: TinyAuth, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    close(become(settings(tmp_path, auth.address, token=TOKEN, token_file=folder, ca_pins=(auth.cluster.pin,))))
    assert folder.exists()


def test_a_refused_token_is_kept_and_a_missing_one_is_said(auth: TinyAuth, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    auth.refusals["/v1/join"] = 401, {"code": "bad_token", "message": "the token is not known", "hint": "ask for one"}
    with pytest.raises(AccessDenied):
        launcher.run(settings(tmp_path, auth.address, token=TOKEN, token_file=token, ca_pins=(auth.cluster.pin,)))
    assert token.read_text() == TOKEN
    with pytest.raises(OperatorError, match="no token to join with: /gone is not there"):
        launcher.run(settings(tmp_path, token_file=Path("/gone")))


@pytest.mark.parametrize("code", ["removed", "replaced"])
def test_a_device_that_was_put_out_joins_by_another_token(auth: TinyAuth, tmp_path: Path, code: str) -> None:
    told = {"ca_pins": (auth.cluster.pin,)}
    file = tmp_path / "node" / "identity.json"
    close(become(settings(tmp_path, auth.address, token=TOKEN, **told)))
    before = identity_file.load(file)
    auth.refusals["/v1/policy"] = 403, {"code": code, "message": "this node was removed from the cluster"}
    # By what it has it stays out, and nobody is asked.
    close(become(settings(tmp_path, auth.address, token=TOKEN, **told)))
    assert auth.paths().count("/v1/policy") == 0
    token = tmp_path / "token"
    token.write_text(OTHER)
    close(become(settings(tmp_path, auth.address, token=OTHER, token_file=token, **told)))
    after = identity_file.load(file)
    assert after["uuid"] != before["uuid"]
    assert host_key(after) != host_key(before)
    assert not token.exists()
    assert auth.requests[-1][1]["token"] == OTHER


@pytest.mark.parametrize("known", [False, True])
def test_whose_ca_was_replaced_while_it_was_away_asks_by_its_key(auth: TinyAuth, tmp_path: Path, known: bool) -> None:
    """A device out of a drawer: nobody takes its certificate any more, and so nobody says by that that it is out."""
    told = {"ca_pins": (auth.cluster.pin,)}
    file = tmp_path / "node" / "identity.json"
    close(become(settings(tmp_path, auth.address, token=TOKEN, **told)))
    before = identity_file.load(file)
    other, _ = Cluster().leaf("node", str(before["uuid"]))
    identity_file.save(file, {**before, "tls_certificate": other})
    if not known:
        auth.refusals["/v1/return"] = 403, {"code": "denied", "message": "no machine is registered with this UUID"}
    for _ in range(2):
        close(become(settings(tmp_path, auth.address, token=OTHER, **told)))
    after = identity_file.load(file)
    assert (after["uuid"] == before["uuid"]) is known
    assert auth.paths().count("/v1/return") == 1
    assert auth.paths().count("/v1/join") == (1 if known else 2)


def test_another_token_is_looked_at_once_and_changes_nobody_who_is_well(auth: TinyAuth, tmp_path: Path) -> None:
    told = {"ca_pins": (auth.cluster.pin,)}
    close(become(settings(tmp_path, auth.address, token=TOKEN, **told)))
    before = identity_file.load(tmp_path / "node" / "identity.json")
    for _ in range(2):
        close(become(settings(tmp_path, auth.address, token=OTHER, **told)))
    after = identity_file.load(tmp_path / "node" / "identity.json")
    assert (after["uuid"], host_key(after)) == (before["uuid"], host_key(before))
    # A copy that renewed would push the device that it is a copy of aside.
    assert [auth.paths().count(path) for path in ("/v1/policy", "/v1/join", "/v1/renew")] == [1, 1, 0]


@pytest.mark.parametrize(("path", "status"), [("/v1/policy", 503), ("/v1/policy", 403), ("/v1/join", 401)])
def test_what_it_was_it_stays_when_it_cannot_join_again(auth: TinyAuth, tmp_path: Path, path: str, status: int) -> None:
    told = {"ca_pins": (auth.cluster.pin,)}
    close(become(settings(tmp_path, auth.address, token=TOKEN, **told)))
    before = identity_file.load(tmp_path / "node" / "identity.json")
    auth.refusals["/v1/policy"] = 403, {"code": "removed", "message": "this node was removed from the cluster"}
    auth.refusals[path] = status, {"code": "unavailable" if status == 503 else "locked", "message": "no"}
    token = tmp_path / "token"
    token.write_text(OTHER)
    found = become(settings(tmp_path, auth.address, token=OTHER, token_file=token, **told))
    assert identity_view.read_public(found["view"][0])["uuid"] == before["uuid"]
    close(found)
    assert identity_file.load(tmp_path / "node" / "identity.json") == before
    # It may be good for something yet.
    assert token.read_text() == OTHER


def close(configuration: dict[str, Any]) -> None:
    """The memory files that the monitor would have been given."""
    for descriptor in configuration["view"]:
        os.close(descriptor)


def test_keys_that_wait_for_auth_are_not_swapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a boot that has no answer yet will be the node's; nobody touches them for hours."""
    told = settings(tmp_path, in_memory=True, device_key={"path": "/nowhere"}, insecure_no_ca_pin=True)
    locked = []

    def unanswered(task: object, view: object, memory: int) -> AccessDenied:
        identity_file.write_memory(memory, b"pending\nkeys")
        maps = Path("/proc/self/smaps").read_text().partition("/memfd:tinyport-identity")[2]
        locked.append(maps.partition("Locked:")[2].split()[:2])
        raise Became("still waiting")

    limits = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    monkeypatch.setattr(launcher, "run_enrolment", unanswered)
    # All of the tests' process would be.
    monkeypatch.setattr(launcher, "lock_process", lambda: True)
    with pytest.raises(Became, match="still waiting"):
        launcher.run(told)
    assert resource.getrlimit(resource.RLIMIT_MEMLOCK) == limits
    assert locked == [[str(identity_file.MEMORY_SIZE // 1024), "kB"]]


def test_a_refused_token_ends_it_at_once(auth: TinyAuth, tmp_path: Path) -> None:
    auth.refusals["/v1/join"] = 401, {"code": "bad_token", "message": "the token is not known", "hint": "ask for one"}
    with pytest.raises(AccessDenied, match="not known") as caught:
        launcher.run(settings(tmp_path, auth.address, token=TOKEN, ca_pins=(auth.cluster.pin,)))
    assert (caught.value.code, caught.value.hint) == ("bad_token", "ask for one")
    assert auth.paths().count("/v1/join") == 1


def test_a_token_that_stays_refused_is_asked_with_ever_rarer(
    auth: TinyAuth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts services starts it again at once: it is the process that waits, until somebody brings another."""
    auth.refusals["/v1/join"] = 401, {"code": "bad_token", "message": "the token is not known", "hint": "ask for one"}
    clock = [0.0]
    token = tmp_path / "token"
    token.write_text(TOKEN)
    bring = [False]

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if bring[0]:
            token.write_text(f"{TOKEN} and more\n")
            os.utime(token, (1, 1))

    monkeypatch.setattr("tinyport.node.refused.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("tinyport.node.refused.time.sleep", sleep)
    log = Log("node.launcher", "error", "text")
    waited = []

    def ask(text: str = TOKEN) -> None:
        before = clock[0]
        refused.Refusals(tmp_path, text, log).wait(AccessDenied("no", hint="ask"), token)
        waited.append(clock[0] - before)

    for _ in range(12):
        ask()
    assert waited[:2] == [0, 0]
    assert 15 <= waited[2] <= 30 <= waited[3] <= 60 <= waited[4]
    assert 450 <= waited[-1] <= 900
    # Another one is news, and is nobody's fault yet.
    ask("another")
    ask()
    ask()
    assert waited[-3:] == [0, 0, 0]
    bring[0] = True
    ask()
    assert 0 < waited[-1] <= 5
    refused.Refusals(tmp_path, TOKEN, log).forget()
    ask()
    assert waited[-1] == 0
    # What is no file of ours counts for nothing.
    (tmp_path / refused.FILE).write_text("x 9 9\n")
    ask()
    assert waited[-1] == 0


def test_a_server_that_is_away_is_tried_again(auth: TinyAuth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auth.refusals["/v1/join"] = 503, {"code": "unavailable", "message": "later"}
    pauses = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            auth.refusals.clear()

    monkeypatch.setattr("tinyport.node.launcher.time.sleep", sleep)
    found = become(settings(tmp_path, auth.address, token=TOKEN, ca_pins=(auth.cluster.pin,)))
    assert len(pauses) == 2
    assert 0 < pauses[0] <= launcher.FIRST_WAIT
    for descriptor in found["view"]:
        os.close(descriptor)


def test_without_identity_and_token_there_is_a_hint(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no token") as caught:
        launcher.run(settings(tmp_path))
    assert "tctl tokens add" in caught.value.hint


def test_a_proxys_identity_is_not_a_nodes(cluster: Cluster, tmp_path: Path) -> None:
    cluster.joined(tmp_path, ("127.0.0.1", 1))
    path = tmp_path / "node" / "identity.json"
    identity_file.save(path, {**identity_file.load(path), "kind": "proxy"})
    with pytest.raises(OperatorError, match="proxy"):
        launcher.run(settings(tmp_path))


def test_every_problem_with_the_settings_comes_at_once(tmp_path: Path) -> None:
    wrong = settings(
        tmp_path,
        labels=(("bad key", "x"),),
        commands=(LabelCommand("up", (), 60.0), LabelCommand("fast", ("true",), 5.0)),
        connections_per_worker=-1,
    )
    with pytest.raises(ConfigError) as caught:
        launcher.run(wrong)
    assert len(caught.value.problems) == 4


@pytest.mark.root
def test_what_faces_the_network_is_never_root(cluster: Cluster, tmp_path: Path) -> None:
    cluster.joined(tmp_path, ("127.0.0.1", 1))
    with pytest.raises(OperatorError, match="root"):
        launcher.run(settings(tmp_path, user="root"))
    with pytest.raises(OperatorError, match="account"):
        launcher.run(settings(tmp_path, user=None))
    found = become(settings(tmp_path, user="no-such-user-here"))
    assert found["user"]["uid"] == pwd.getpwnam("nobody").pw_uid
    for descriptor in found["view"]:
        os.close(descriptor)


@pytest.mark.parametrize(
    "error",
    [
        AccessDenied("no", code="bad_token", hint="h", detail="d"),
        OperatorError("pin", code="ca_pin"),
        PeerError("odd"),
        Unavailable("away"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_the_way_between_processes(error: TinyportError) -> None:
    again = enrol.raised(json.loads(json.dumps({"error": enrol.error_fields(error)})))
    assert type(again) is type(error)
    assert (again.message, again.detail, again.hint, again.code) == (
        error.message,
        error.detail,
        error.hint,
        error.code,
    )


@pytest.mark.parametrize("answer", [None, {}, [], {"error": "x"}, {"ok": False}])
def test_a_process_that_died_is_an_error(answer: object) -> None:
    assert isinstance(enrol.raised(answer), OperatorError)


def test_a_yes_is_no_error() -> None:
    assert enrol.raised({"ok": True}) is None


def test_the_path_has_absolute_folders_alone() -> None:
    path = search_path()
    assert all(os.path.isabs(entry) for entry in path)
    assert str(Path(launcher.__file__).parents[2]) in path


def test_an_empty_view_is_an_error() -> None:
    public, secret = identity_view.create()
    with pytest.raises(OperatorError):
        identity_view.read_public(public)
    os.close(public)
    os.close(secret)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root")
@pytest.mark.root
def test_workers_have_an_account_of_their_own_where_there_is_one(tmp_path: Path) -> None:
    log = Log("test", "error", "text")
    view = (0, 1)

    def users(**changes: Any) -> tuple[object, object]:
        made = settings(tmp_path, ("127.0.0.1", 1), **changes)
        found = launcher.monitor_configuration(made, tmp_path, view, log)
        return found["user"], found["worker_user"]

    nobody, daemon = pwd.getpwnam("nobody"), pwd.getpwnam("daemon")
    link, worker = users(worker_user="daemon")
    assert (link, worker) == (
        {"uid": nobody.pw_uid, "gid": nobody.pw_gid},
        {"uid": daemon.pw_uid, "gid": daemon.pw_gid},
    )
    link, worker = users(worker_user="no-such-user-here")
    assert link == worker
    with pytest.raises(OperatorError, match="is root"):
        users(worker_user="root")
