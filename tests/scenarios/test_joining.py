"""People join a live session through the tunnel: observers look on, peers type, and roles decide."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.cluster import BIN, LIMIT, Cluster, text, wait_for


class Person:
    """A ``tsh`` of somebody whose standard input stays open; everything that it says is in ``said``."""

    def __init__(self, cluster: Cluster, home: str, *words: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [str(BIN / "tsh"), *words], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, env=cluster.env(home)
        )
        self.said = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while data := os.read(self.process.stdout.fileno(), 65536):
            self.said += data

    def sees(self, what: bytes) -> None:
        wait_for(f"{what!r} on the screen, where there is {self.said[-400:]!r}", lambda: what in self.said)

    def types(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def ends(self) -> int:
        status = self.process.wait(LIMIT)
        self._reader.join(LIMIT)
        return status

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(LIMIT)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def person(cluster: Cluster, home: str, *words: str) -> Iterator[Person]:
    made = Person(cluster, home, *words)
    try:
        yield made
    finally:
        made.close()


def role(cluster: Cluster, folder: Path, name: str, options: str) -> None:
    file = folder / f"{name}.toml"
    allow = '[allow]\nlogins = ["{{internal.logins}}"]\nnode_labels = { "*" = "*" }\n'
    file.write_text(f'kind = "role"\nname = "{name}"\n{allow}\n[options]\n{options}\n')
    done = cluster.tctl("create", "-f", str(file))
    assert done.returncode == 0, text(done)


@pytest.fixture(scope="module")
def people(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("roles")
    role(cluster, folder, "owners", "")
    role(cluster, folder, "watchers", 'join_sessions = [{ roles = ["owners"], modes = ["observer"] }]')
    role(cluster, folder, "helpers", 'join_sessions = [{ roles = ["*"], modes = ["observer", "peer"] }]')
    made = {"owner": "owners", "watcher": "watchers", "helper": "helpers", "outsider": "owners"}
    return {name: cluster.add_user(name, cluster.login_name, roles) for name, roles in made.items()}


def live(cluster: Cluster, user: str) -> list[dict[str, Any]]:
    return [one for one in cluster.tctl_json("sessions", "ls")["sessions"] if one["user"] == user]


def id_of(cluster: Cluster, user: str) -> str:
    return str(wait_for(f"a session of {user}", lambda: live(cluster, user))[0]["id"])


@contextmanager
def session(cluster: Cluster, people: dict[str, str]) -> Iterator[tuple[Person, str]]:
    """A terminal of the owner's in which a shell reads commands, and its id."""
    wait_for("earlier sessions to end", lambda: not live(cluster, people["owner"]))
    where = f"{cluster.login_name}@{cluster.node}"
    with person(cluster, people["owner"], "ssh", "-t", where, "PS1='ready> ' sh") as owner:
        owner.sees(b"ready> ")
        yield owner, id_of(cluster, people["owner"])


def test_an_observer_sees_and_cannot_type(cluster: Cluster, people: dict[str, str]) -> None:
    with session(cluster, people) as (owner, sid), person(cluster, people["watcher"], "join", sid[:10]) as watcher:
        # What was there before is shown, too.
        watcher.sees(b"ready> ")
        owner.sees(b"[watcher joins as observer]")
        watcher.types(b"echo typed-by-$((40+2))\r")
        owner.types(b"echo owner-$((40+2))\r")
        watcher.sees(b"owner-42")
        parties = wait_for("the party in the list", lambda: live(cluster, "owner")[0].get("parties"))
        assert [(party["user"], party["mode"]) for party in parties] == [("watcher", "observer")]
        owner.types(b"exit\r")
        assert owner.ends() == 0
        assert watcher.ends() == 0
        assert b"typed-by" not in owner.said
    events = wait_for(
        "leaving in the audit log", lambda: cluster.tctl_json("audit", "--type", "session.leave")["events"]
    )
    assert [(one["user"], one["owner"], one["sid"]) for one in events if one["sid"] == sid] == [
        ("watcher", "owner", sid)
    ]
    joined = cluster.tctl_json("audit", "--type", "session.join")["events"]
    assert [one["mode"] for one in joined if one["sid"] == sid] == ["observer"]


def test_a_peer_types(cluster: Cluster, people: dict[str, str]) -> None:
    with session(cluster, people) as (owner, sid):
        with person(cluster, people["helper"], "join", "--mode", "peer", sid) as helper:
            helper.sees(b"ready> ")
            helper.types(b"echo helped-$((40+2))\r")
            owner.sees(b"helped-42")
            helper.sees(b"helped-42")
        owner.sees(b"[helper leaves]")
        owner.types(b"exit 3\r")
        assert owner.ends() == 3


def test_roles_decide(cluster: Cluster, people: dict[str, str]) -> None:
    with session(cluster, people) as (owner, sid):
        denied = cluster.tsh("join", "--mode", "peer", sid, home=people["watcher"])
        assert b"your roles do not let you join this session as peer" in denied.stderr + denied.stdout, text(denied)
        # Whoever may not join it does not hear of it, and does not get in by its id either.
        unseen = cluster.tsh("join", sid, home=people["outsider"])
        assert b"there is no live session that you may join" in unseen.stderr, text(unseen)
        where = f"{cluster.login_name}@{cluster.node}.{cluster.tctl_json('status')['cluster']}"
        config = cluster.ssh_config(people["outsider"])
        words = ("ssh", "-F", config, "-o", "BatchMode=yes", "-s", where, f"join:observer:{sid}")
        plain = cluster.run(*words, home=people["outsider"])
        assert plain.returncode == 255
        assert b"your roles do not let you join this session" in plain.stderr, text(plain)
        assert b"joins" not in owner.said


def test_a_role_that_is_taken_away_takes_the_observer_along(
    cluster: Cluster, people: dict[str, str], tmp_path: Path
) -> None:
    with session(cluster, people) as (owner, sid), person(cluster, people["watcher"], "join", sid) as watcher:
        owner.sees(b"[watcher joins as observer]")
        role(cluster, tmp_path, "watchers", "")
        watcher.sees(b"access revoked: your roles do not let you join this session")
        assert watcher.ends() == 255
        owner.sees(b"[watcher leaves]")
        role(cluster, tmp_path, "watchers", 'join_sessions = [{ roles = ["owners"], modes = ["observer"] }]')
