"""Recorded sessions from end to end: whole, watched while they happen, and on days when auth or the node is away."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests.conftest import need_program
from tests.scenarios.cluster import BIN, LIMIT, Cluster, alive, text, wait_for
from tests.scenarios.test_bad_days import auth_hangs


def person(cluster: Cluster, name: str, record: str, *more: str) -> str:
    """Somebody whose role says how their sessions are recorded."""
    role = cluster.folder / f"record-{record}.toml"
    role.write_text(f'kind = "role"\nname = "record-{record}"\n[options]\nrecord = "{record}"\n')
    assert cluster.tctl("create", "-f", role).returncode == 0
    return cluster.add_user(name, cluster.login_name, ",".join(("access", f"record-{record}", *more)))


@contextmanager
def session(cluster: Cluster, home: str, command: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """``tsh ssh`` that has said "here"."""
    words = [str(BIN / "tsh"), "ssh", *options, f"{cluster.login_name}@{cluster.node}", command]
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env=cluster.env(home))
    assert process.stdout is not None
    try:
        line = b""
        while b"here" not in line:
            line = process.stdout.readline()
            assert line, process.communicate(timeout=LIMIT)
        yield process
    finally:
        process.kill()
        process.communicate()


def recordings(cluster: Cluster, user: str, *filters: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.tctl_json("recordings", "ls", "--user", user, *filters)["recordings"]
    return found


def ended(cluster: Cluster, user: str) -> dict[str, Any]:
    """The newest recording of somebody, once it has ended."""
    made: dict[str, Any] = wait_for(
        "a recording that has ended",
        lambda: (found := recordings(cluster, user)) and found[0]["state"] != "live" and found[0],
    )
    return made


def lines_of(cluster: Cluster, id: str) -> list[list[Any]]:
    done = cluster.tctl("recordings", "export", id)
    assert done.returncode == 0, text(done)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found[0]["version"] == 2
    return found[1:]


def shown(events: list[list[Any]]) -> str:
    return "".join(event[2] for event in events if event[1] == "o")


def test_a_session_is_there_whole_and_asciinema_reads_it(cluster: Cluster, tmp_path: Path) -> None:
    user = person(cluster, "rita", "node", "auditor")
    words = "printf 'gr\\303\\274n\\n'; echo here; read line; echo bye-$line"
    with session(cluster, user, words, "-t") as process:
        (live,) = wait_for("it to be listed", lambda: recordings(cluster, user))
        assert (live["state"], live["node"], live["login"]) == ("live", cluster.node, cluster.login_name)
        said, _ = process.communicate(b"bye\n", timeout=LIMIT)
    one = ended(cluster, user)
    assert (one["id"], one["state"], one["lost"]) == (live["id"], "complete", 0)
    events = lines_of(cluster, one["id"][:10])
    assert shown(events).startswith("grün\r\nhere\r\n")
    assert shown(events).endswith("bye-bye\r\n")
    assert said.decode() in shown(events)
    assert [found["id"] for found in recordings(cluster, user, "--text", "GRÜN here")] == [one["id"]]
    assert recordings(cluster, user, "--text", "purple") == []
    # By the person's own right, and into a file.
    path = tmp_path / "session.cast"
    done = cluster.tsh("play", one["id"], "-o", path, home=user)
    assert done.returncode == 0, text(done)
    assert path.stat().st_mode & 0o777 == 0o600
    again = cluster.tsh("recordings", "export", one["id"], "-o", path, home=user)
    assert again.returncode == 1
    table = cluster.tsh("recordings", "ls", "--user", user, home=user).stdout.decode()
    assert one["id"][:12] in table
    played = cluster.tsh("play", path, home=user)
    assert played.stdout.decode() == shown(events)
    asciinema = need_program("asciinema")
    # It wants a terminal to read keys from.
    cat = cluster.run("setsid", "--wait", "script", "-qec", f"{asciinema} cat {path}", "/dev/null")
    assert "bye-bye" in cat.stdout.decode(), text(cat)
    access = cluster.tctl_json("audit", "--type", "recording.access", "--user", user)["events"]
    assert {event["by"] for event in access} == {"local", f"user:{user}"}


def test_who_may_not(cluster: Cluster) -> None:
    user = person(cluster, "ned", "node")
    with session(cluster, user, "echo here; read line") as process:
        process.communicate(b"\n", timeout=LIMIT)
    one = ended(cluster, user)
    for words in (("recordings", "ls"), ("play", one["id"]), ("recordings", "export", one["id"])):
        done = cluster.tsh(*words, home=user)
        assert done.returncode == 4, text(done)
    missing = cluster.tctl("recordings", "export", "0" * 32)
    assert missing.returncode == 5, text(missing)


def until(stream: IO[bytes], wanted: bytes) -> bytes:
    """Read until ``wanted`` has come; everything that came."""
    seen = b""
    while wanted not in seen:
        ready, _, _ = select.select([stream], [], [], LIMIT)
        assert ready, seen[-2000:]
        piece = os.read(stream.fileno(), 65536)
        assert piece, seen[-2000:]
        seen += piece
    return seen


def say(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line + b"\n")
    process.stdin.flush()


@contextmanager
def running(cluster: Cluster, home: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [str(BIN / words[0]), *words[1:]], stdin=pipe, stdout=pipe, stderr=pipe, env=cluster.env(home)
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_followed_while_it_happens_with_who_comes_and_goes(cluster: Cluster) -> None:
    user = person(cluster, "fay", "node", "auditor")
    with session(cluster, user, "echo here; while read line; do echo got-$line; done", "-t") as process:
        (live,) = wait_for("it to be listed", lambda: recordings(cluster, user))
        with running(cluster, user, "tsh", "play", "--follow", live["id"]) as watcher:
            assert watcher.stdout is not None
            for word in (b"one", b"two"):
                say(process, word)
                until(watcher.stdout, b"got-" + word)
            with running(cluster, user, "tctl", "sessions", "join", live["id"]):
                until(watcher.stdout, b"joins as observer")
            until(watcher.stdout, b"leaves")
            process.communicate(b"\x04", timeout=LIMIT)
            watcher.communicate(timeout=LIMIT)
            assert watcher.returncode == 0
    one = ended(cluster, user)
    assert one["parties"] == [{"user": user, "mode": "observer"}]
    marks = [event[2] for event in lines_of(cluster, one["id"]) if event[1] == "m"]
    assert marks == [f"{user} joins as observer", f"{user} leaves"]


def test_auth_is_away_in_the_middle(fragile: Cluster) -> None:
    user = person(fragile, "mona", "node")
    command = "echo here; read a; echo af''ter-$a; read b; head -c 4000000 /dev/zero | tr '\\0' x; echo; echo a''ll; "
    command += "read c; echo end-$c"
    with session(fragile, user, command, "-t") as process:
        assert process.stdout is not None
        (live,) = wait_for("it to be listed", lambda: recordings(fragile, user))
        wait_for("the beginning to be stored", lambda: recordings(fragile, user)[0]["bytes"] > 0)
        pid = fragile.ready["pids"]["auth"]
        with auth_hangs(fragile):
            say(process, b"one")
            until(process.stdout, b"after-one")
            # Nobody waits for the recording: far more than a pipe holds is shown.
            say(process, b"two")
            assert len(until(process.stdout, b"xx\r\nall")) > 4_000_000
            # And it dies with what it has taken and not answered.
            os.kill(pid, signal.SIGKILL)
        wait_for("auth to be gone", lambda: not alive(pid))
        wait_for("auth to be back", lambda: fragile.tctl("status").returncode == 0)
        wait_for("what waited to be stored", lambda: recordings(fragile, user)[0]["bytes"] > 100_000)
        say(process, b"three")
        until(process.stdout, b"end-three")
        process.wait(LIMIT)
    one = ended(fragile, user)
    assert one["id"] == live["id"]
    events = lines_of(fragile, one["id"])
    seen = shown(events)
    # Nothing that auth had taken is missing, nor what the pipe held, nor what came later.
    assert seen.startswith("here\r\n")
    assert "after-one" in seen
    assert "end-three" in seen
    assert one["lost"] > 1_000_000
    gaps = [event[2].partition(" ") for event in events if event[1] == "m"]
    assert {rest for _, _, rest in gaps} == {"bytes were lost here"}
    assert sum(int(count) for count, _, _ in gaps) == one["lost"]
    (lost,) = fragile.tctl_json("audit", "--type", "session.data_lost")["events"]
    assert (lost["sid"], lost["bytes"], lost["user"]) == (one["id"], one["lost"], user)
    assert one["lost"] + one["bytes"] > 4_000_000


def test_no_recording_no_session(fragile: Cluster) -> None:
    user = person(fragile, "stella", "strict")
    target = f"{fragile.login_name}@{fragile.node}"
    done = fragile.tsh("ssh", target, "echo hi", home=user)
    assert done.stdout == b"hi\n", text(done)
    assert ended(fragile, user)["mode"] == "strict"
    explained = fragile.tctl("explain", user, target).stdout.decode()
    assert "recorded, or refused (role record-strict)" in explained
    with auth_hangs(fragile):
        refused = fragile.tsh("ssh", target, "echo hi", home=user)
        assert refused.returncode == 255, text(refused)
        assert refused.stdout == b""
        assert b"this session must be recorded, and its recording cannot be stored now" in refused.stderr
    # Who was refused once may come when auth is back.
    wait_for("a session", lambda: fragile.tsh("ssh", target, "echo hi", home=user).stdout == b"hi\n")


@pytest.mark.slow
def test_a_session_that_must_be_recorded_waits_and_then_ends(fragile: Cluster) -> None:
    user = person(fragile, "sven", "strict")
    command = "echo here; read line; head -c 3000000 /dev/zero | tr '\\0' x; read line"
    with session(fragile, user, command, "-t") as process, auth_hangs(fragile):
        said, complained = process.communicate(b"go\n", timeout=2 * LIMIT)
        assert b"could not be stored for 60 seconds" in said + complained
        # Stopped by the recording long before all of it was shown: a pipe of 1 MiB and what link holds.
        assert len(said) < 2_000_000
    one = ended(fragile, user)
    assert one["lost"] == 0 or one["state"] == "incomplete"


def test_a_worker_that_dies(fragile: Cluster) -> None:
    user = person(fragile, "nora", "node")
    with session(fragile, user, "echo here; read line", "-t"):
        wait_for("it to be stored", lambda: (found := recordings(fragile, user)) and found[0]["bytes"] > 0)
        monitor = fragile.ready["pids"]["node"]
        keeper = next(pid for pid in children(monitor) if name_of(pid) == "tinyport-keeper")
        os.kill(next(pid for pid in children(keeper) if name_of(pid) == "tinyport-worker"), signal.SIGKILL)
    one = ended(fragile, user)
    assert (one["state"], one["reason"]) == ("incomplete", "its end did not come")
    assert "the recording ends here: its end did not come" in shown(lines_of(fragile, one["id"]))
    (lost,) = fragile.tctl_json("audit", "--type", "session.data_lost")["events"]
    assert lost["sid"] == one["id"]


def children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                found.append(int(entry.name))
    return found


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
