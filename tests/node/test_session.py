"""Sessions as the real OpenSSH client sees them."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.session_harness import LIMIT, LOGIN, Rig, wait_for
from tinyport.core.signatures import Ed25519Key

MakeRig = Callable[..., Rig]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("rig")).start()
    yield rig
    rig.stop()


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeRig]:
    """For tests that break something, or need other settings."""
    made: list[Rig] = []

    def make(**changes: Any) -> Rig:
        made.append(Rig(tmp_path, **changes).start())
        return made[-1]

    yield make
    for rig in made:
        rig.stop()


@pytest.fixture
def usual_certificate(rig: Rig) -> Iterator[None]:
    yield
    rig.give_certificate()


# ---------------------------------------------------------------------- what a session is


def test_output_error_and_status(rig: Rig) -> None:
    done = rig.ssh("echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_a_process_that_was_killed(rig: Rig) -> None:
    done = rig.ssh("kill -KILL $$", options=("-v",))
    # ssh(1) shows exit signals only in its debug output, and exits with 255.
    assert b"exit-signal" in done.stderr
    assert done.returncode == 255
    assert rig.event("exec", command="kill -KILL $$")["signal"] == "KILL"


def test_a_terminal(rig: Rig) -> None:
    done = rig.ssh("tty; test -t 0 && test -t 1 && test -t 2 && echo all; stty -a", options=("-tt",))
    assert done.returncode == 0
    assert b"/dev/pts/" in done.stdout
    assert b"all\r\n" in done.stdout
    assert b"erase = " in done.stdout


def test_a_terminal_controls_its_session(rig: Rig) -> None:
    """The shell leads a session of its own, whose foreground it is: job control works, and /dev/tty is the terminal."""
    done = rig.ssh("echo $$ $(ps -o sid=,tpgid= -p $$); echo here >/dev/tty", options=("-tt",))
    ids, here = done.stdout.decode().splitlines()
    shell, session, foreground = ids.split()
    assert shell == session
    # The foreground is the shell's group, or that of the ps which it waits for.
    assert int(foreground) > 0
    assert here == "here"


def test_no_output_of_a_terminal_is_lost_at_its_end(rig: Rig) -> None:
    done = rig.ssh("stty -opost; seq 1 50000", options=("-tt",))
    assert done.stdout.split() == [str(n).encode() for n in range(1, 50001)]


def test_a_login_shell_reads_its_commands_from_standard_input(rig: Rig) -> None:
    done = rig.ssh(input=b"echo $0; exit 4\n")
    assert done.returncode == 4
    assert done.stdout.split()[-1].startswith(b"-")


def test_standard_input_ends_and_the_answer_still_comes(rig: Rig) -> None:
    done = rig.ssh("sort", input=b"b\na\n")
    assert (done.returncode, done.stdout) == (0, b"a\nb\n")


def test_twenty_megabytes_each_way(rig: Rig) -> None:
    data = os.urandom(20_000_000)
    done = rig.ssh("cat", input=data)
    assert done.returncode == 0
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_output_and_error_are_both_whole(rig: Rig) -> None:
    done = rig.ssh("head -c 3000000 /dev/zero >&2 & head -c 3000000 /dev/zero; wait")
    assert (len(done.stdout), len(done.stderr), done.returncode) == (3_000_000, 3_000_000, 0)


def test_a_child_that_does_not_read_its_input(rig: Rig) -> None:
    done = rig.ssh("exec <&-; echo early; exit 3", input=b"x" * 5_000_000)
    assert (done.returncode, done.stdout) == (3, b"early\n")


def test_a_background_job_that_keeps_the_output_is_waited_for(rig: Rig) -> None:
    done = rig.ssh("(read line; sleep 0.3; echo late) & exit 5", input=b"go\n")
    assert (done.returncode, done.stdout) == (5, b"late\n")


def test_a_background_job_without_the_output_is_not(rig: Rig) -> None:
    done = rig.ssh("sleep 1000 </dev/null >/dev/null 2>&1 & echo $!; exit 5")
    os.kill(int(done.stdout), signal.SIGKILL)
    assert done.returncode == 5


def test_a_background_job_does_not_keep_a_terminal(rig: Rig) -> None:
    done = rig.ssh("trap '' HUP; sleep 1000 & echo pid=$!; exit 6", options=("-tt",))
    os.kill(int(done.stdout.split(b"pid=")[1].split()[0]), signal.SIGKILL)
    assert done.returncode == 6


def test_commands_are_bytes(rig: Rig) -> None:
    command = [os.fsencode(word) for word in rig.command()] + [b"printf %s caf\xe9"]
    done = subprocess.run(command, capture_output=True, timeout=LIMIT, check=False, stdin=subprocess.DEVNULL)
    assert done.stdout == b"caf\xe9"


def test_the_environment_is_made_here(rig: Rig) -> None:
    sent = {
        "LANG": "de_DE.UTF-8",
        "LC_TIME": "C",
        "COLORTERM": "truecolor",
        "LD_PRELOAD": "/x.so",
        "BASH_ENV": "/x",
        "PYTHONPATH": "/x",
    }
    options = tuple(word for name in sent for word in ("-o", f"SendEnv={name}"))
    done = rig.ssh("env; pwd", options=options, env={**os.environ, **sent})
    *lines, folder = done.stdout.decode().splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    assert found["LANG"] == "de_DE.UTF-8"
    assert (found["LC_TIME"], found["COLORTERM"]) == ("C", "truecolor")
    assert not {"LD_PRELOAD", "BASH_ENV", "PYTHONPATH"} & found.keys()
    assert (found["USER"], found["LOGNAME"], found["TINYPORT_USER"]) == (LOGIN, LOGIN, "alice")
    assert found["TINYPORT_NODE"] == "shed"
    assert found["SSH_CLIENT"].startswith("127.0.0.1 ")
    assert found["SSH_CONNECTION"].endswith(f" 127.0.0.1 {rig.port}")
    assert os.path.realpath(folder) == os.path.realpath(os.path.expanduser("~"))


def test_nothing_of_the_keeper_reaches_the_session(rig: Rig) -> None:
    done = rig.ssh("ls /proc/self/fd; grep -E 'SigBlk|SigIgn' /proc/self/status; umask")
    *descriptors, blocked, ignored, umask = done.stdout.decode().splitlines()
    # 3 is ls looking.
    assert descriptors == ["0", "1", "2", "3"]
    assert int(blocked.split()[1], 16) == 0
    # bash, a frequent login shell, ignores nothing either when it runs a command. Signals from 32 to SIGRTMIN are the C
    # library's own: nobody can set them, and they stay as whoever started the tests had them (musl ignores one itself).
    ours = ~sum(1 << number - 1 for number in range(32, signal.SIGRTMIN))
    assert int(ignored.split()[1], 16) & ours == 0
    assert umask in ("0022", "022")


def test_the_client_sends_a_signal_by_leaving(rig: Rig, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = f"trap 'echo hup > {mark}; exit' HUP; echo ready; exec >/dev/null 2>&1; while :; do sleep 0.05; done"
    process = rig.popen(command)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.communicate()
    wait_for("SIGHUP to arrive", mark.exists)
    assert rig.event("session.end", kind="exec")


def test_ten_sessions_over_one_connection(rig: Rig, tmp_path: Path) -> None:
    control = ("-o", f"ControlPath={tmp_path / 'c'}")
    master = rig.popen("cat", options=("-o", "ControlMaster=yes", *control))
    wait_for("the control socket", (tmp_path / "c").exists)
    running = [rig.popen(f"echo {number}; cat; exit {number}", options=control) for number in range(10)]
    for number, process in enumerate(running):
        output, _ = process.communicate(b"in\n", LIMIT)
        assert (output, process.returncode) == (f"{number}\nin\n".encode(), number)
    master.communicate(timeout=LIMIT)
    ports = {rig.event("exec", command=f"echo {number}; cat; exit {number}")["addr"] for number in range(10)}
    assert len(ports) == 1


def test_sftp_moves_files(rig: Rig, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "source").write_bytes(data)
    batch = f"put {tmp_path}/source {tmp_path}/there\nget {tmp_path}/there {tmp_path}/back\n"
    command = ["sftp", "-b", "-", *rig.options(), "-P", str(rig.port), f"{LOGIN}@127.0.0.1"]
    done = subprocess.run(command, input=batch.encode(), capture_output=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == data
    rig.event("sftp.end", status=0)


@pytest.mark.parametrize("protocol", ["-s", "-O"])
def test_scp_old_and_new(rig: Rig, tmp_path: Path, protocol: str) -> None:
    data = os.urandom(300_000)
    (tmp_path / "source").write_bytes(data)
    command = ["scp", protocol, "-q", *rig.options(), "-P", str(rig.port)]
    command += [str(tmp_path / "source"), f"{LOGIN}@127.0.0.1:{tmp_path}/there"]
    done = subprocess.run(command, capture_output=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there").read_bytes() == data


@pytest.mark.parametrize("kex", ["curve25519-sha256", "diffie-hellman-group16-sha512"])
def test_every_key_exchange_is_signed_by_the_keeper(rig: Rig, kex: str) -> None:
    done = rig.ssh("true", options=("-o", f"KexAlgorithms={kex}"))
    assert done.returncode == 0, done.stderr


def test_a_plain_host_key_is_offered_too(rig: Rig) -> None:
    options = ("-o", "HostKeyAlgorithms=ssh-ed25519", "-o", "StrictHostKeyChecking=no", "-o", "HostKeyAlias=plain")
    done = rig.ssh("true", options=options)
    assert done.returncode == 0, done.stderr


def test_keys_are_exchanged_again_and_again_during_a_session(rig: Rig) -> None:
    small = ("-o", "RekeyLimit=4M")
    done = rig.ssh("head -c 50000000 /dev/zero", options=small)
    assert (done.returncode, len(done.stdout)) == (0, 50_000_000), done.stderr
    data = os.urandom(50_000_000)
    done = rig.ssh("sha256sum", input=data, options=small)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_agent_and_x11_requests_do_not_disturb(rig: Rig) -> None:
    done = rig.ssh("echo ${SSH_AUTH_SOCK:-none} ${DISPLAY:-none}", options=("-A", "-o", "ForwardX11=yes"))
    assert done.stdout == b"none none\n"


def test_the_log_reads_like_sshd(rig: Rig) -> None:
    rig.ssh("true")
    lines = [line for line in rig.log().splitlines() if f"Accepted publickey for {LOGIN} from 127.0.0.1 port" in line]
    assert " ssh2: ED25519-CERT SHA256:" in lines[-1]
    assert " ID alice (serial 7) CA ED25519 SHA256:" in lines[-1]


def test_audit_events_tell_who_where_and_what(rig: Rig) -> None:
    rig.ssh("exit 9 # audited")
    event = rig.event("exec", command="exit 9 # audited")
    assert (event["user"], event["login"], event["status"], event["node_name"]) == ("alice", LOGIN, 9, "shed")
    assert event["addr"].startswith("127.0.0.1:")
    start = rig.event("session.start", sid=event["sid"])
    end = rig.event("session.end", sid=event["sid"])
    assert start["time"] <= end["time"]


# ---------------------------------------------------------------------- refusals

REFUSALS: dict[str, tuple[dict[str, Any], bytes]] = {
    "expired": ({"now": int(time.time()) - 9000, "ttl": 1800}, b"certificate expired"),
    "not yet": ({"now": int(time.time()) + 9000}, b"not valid yet"),
    "foreign CA": ({"ca": Ed25519Key.generate()}, b"access denied"),
    "unknown option": ({"critical_options": {"verify-required": ""}}, b"critical option that is not known"),
    "another address": ({"critical_options": {"source-address": "10.0.0.0/8"}}, b"may not be used from this address"),
    "unknown role": ({"roles": ["ghost"]}, b"role ghost does not exist"),
    "another login": ({"logins": ["somebody-else"]}, b"is not one of yours"),
    "another cluster": ({"cluster": "elsewhere"}, b"access denied"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused(rig: Rig, usual_certificate: None, name: str) -> None:
    changes, words = REFUSALS[name]
    rig.give_certificate(**changes)
    done = rig.ssh("echo never")
    assert (done.returncode, done.stdout) == (255, b"")
    assert words in done.stderr
    assert b"Permission denied" in done.stderr


def test_a_certificate_without_principals_is_refused(rig: Rig, usual_certificate: None) -> None:
    # ssh-keygen makes what our own issuer refuses to.
    ca = rig.folder / "ca"
    ca.touch(0o600)
    ca.write_bytes(rig.authority.user_ca.to_openssh())
    public = rig.folder / "id.pub"
    public.write_bytes(subprocess.run(["ssh-keygen", "-y", "-f", str(rig.key)], capture_output=True, check=True).stdout)
    subprocess.run(["ssh-keygen", "-q", "-s", str(ca), "-I", "alice", str(public)], check=True)
    done = rig.ssh("echo never")
    assert (done.returncode, done.stdout) == (255, b"")


def test_a_login_that_this_node_does_not_run_as(rig: Rig, usual_certificate: None) -> None:
    rig.give_certificate(logins=["nobody"])
    done = rig.ssh("echo never", login="nobody")
    assert done.returncode == 255
    assert f"this node runs as {LOGIN} and can serve only {LOGIN}".encode() in done.stderr


def test_an_account_that_does_not_exist(rig: Rig, usual_certificate: None) -> None:
    rig.give_certificate(logins=["no-such-account"])
    done = rig.ssh("echo never", login="no-such-account")
    assert b"there is no account no-such-account" in done.stderr


def test_what_roles_do_not_permit(rig: Rig, usual_certificate: None) -> None:
    rig.give_certificate(roles=["narrow"])
    done = rig.ssh("echo never")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"your roles do not permit commands on this node" in done.stderr
    command = ["sftp", "-b", "-", *rig.options(), "-P", str(rig.port), f"{LOGIN}@127.0.0.1"]
    sftp = subprocess.run(command, input=b"pwd\n", capture_output=True, timeout=LIMIT, check=False)
    assert b"your roles do not permit file transfer on this node" in sftp.stderr
    terminal = rig.ssh(options=("-tt",))
    assert b"PTY allocation request failed" in terminal.stderr


def test_a_forced_command(rig: Rig, usual_certificate: None) -> None:
    rig.give_certificate(critical_options={"force-command": 'echo "forced: $SSH_ORIGINAL_COMMAND"'})
    assert rig.ssh("rm -rf /").stdout == b"forced: rm -rf /\n"


def test_no_certificate_at_all(rig: Rig, usual_certificate: None) -> None:
    (rig.folder / "id-cert.pub").unlink()
    done = rig.ssh("echo never")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"Permission denied (publickey)" in done.stderr


def test_denials_are_audited(rig: Rig, usual_certificate: None) -> None:
    rig.give_certificate(logins=["somebody-else"], serial=4711)
    rig.ssh("true")
    event = rig.event("access.denied", certificate_serial=4711)
    assert (event["user"], event["login"]) == ("alice", LOGIN)


# ---------------------------------------------------------------------- lives of the processes


def test_a_lock_ends_a_session_that_runs(make_rig: MakeRig) -> None:
    rig = make_rig()
    process = rig.popen("echo ready; exec sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    lock = {"id": "l1", "target": {"user": "alice"}, "expires": None, "message": "laptop stolen"}
    rig.install(rig.authority.policy(locks=[lock]))
    _, error = process.communicate(timeout=LIMIT)
    assert process.returncode == 255
    assert b"user alice is locked: laptop stolen" in error
    assert rig.event("session.end")["signal"] == "HUP"
    assert b"user alice is locked" in rig.ssh("true").stderr
    rig.install(rig.authority.policy())
    assert rig.ssh("true").returncode == 0


def test_an_older_or_forged_policy_changes_nothing(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.install(rig.authority.policy())
    rig.tell({"op": "document", "signed": {"document": "{}", "signature": "AAAA"}})
    old = rig.authority
    old.serial = 1
    rig.install(old.policy(user_cas=[]))
    assert rig.ssh("true").returncode == 0, rig.log()
    assert "an older document is not taken" in rig.log()


def test_a_killed_worker_takes_only_its_connections(make_rig: MakeRig) -> None:
    rig = make_rig()
    process = rig.popen("echo ready; exec sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (worker,) = rig.workers()
    os.kill(worker, signal.SIGKILL)
    process.communicate(timeout=LIMIT)
    assert process.returncode == 255
    assert rig.event("session.end")["signal"] == "HUP"
    assert rig.ssh("echo again").stdout == b"again\n"


def test_a_worker_that_hangs_gets_no_more_connections(make_rig: MakeRig) -> None:
    """Stopped, or in circles that a stranger sent it into: others are served, and its sessions go on if it does."""
    rig = make_rig()
    process = rig.popen("cat")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"before\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"before\n"
    (worker,) = rig.workers()
    os.kill(worker, signal.SIGSTOP)
    assert rig.ssh("true").returncode == 255
    assert "a worker does not answer; it gets no more connections" in rig.log()
    assert rig.ssh("echo served").stdout == b"served\n"
    assert worker in rig.workers()
    os.kill(worker, signal.SIGCONT)
    assert process.communicate(b"after\n", timeout=LIMIT)[0] == b"after\n"
    assert process.returncode == 0
    wait_for("its answer", lambda: "a worker that did not answer does again" in rig.log())


def test_a_worker_that_hung_and_has_nobody_left_leaves_in_time(make_rig: MakeRig) -> None:
    rig = make_rig(worker_idle=5)
    assert rig.ssh("true").returncode == 0
    (worker,) = rig.workers()
    os.kill(worker, signal.SIGSTOP)
    assert rig.ssh("true").returncode == 255
    os.kill(worker, signal.SIGCONT)
    wait_for("its end", lambda: worker not in rig.workers())


def test_a_worker_for_each_connection(make_rig: MakeRig) -> None:
    rig = make_rig(connections_per_worker=1)
    first, second = (rig.popen("echo ready; cat") for _ in range(2))
    for process in (first, second):
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    assert len(rig.workers()) == 2
    first.communicate(timeout=LIMIT)
    wait_for("its worker to leave", lambda: len(rig.workers()) == 1)
    assert rig.ssh("echo third").stdout == b"third\n"
    second.communicate(timeout=LIMIT)


def test_idle_worker_and_keeper_leave(make_rig: MakeRig) -> None:
    rig = make_rig(worker_idle=0, keeper_idle=0.1)
    rig.tell({"op": "warm"})
    rig_status = wait_for("the keeper to leave", lambda: rig.status is not None)
    assert rig_status
    assert rig.status == 0, rig.log()
    assert "closing" in rig.said


def test_the_keeper_stays_while_somebody_is_there(make_rig: MakeRig) -> None:
    rig = make_rig(worker_idle=0, keeper_idle=0)
    process = rig.popen("echo ready; cat")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    before = rig.said.count("closing")
    output, _ = process.communicate(b"still here\n", LIMIT)
    assert output == b"still here\n"
    wait_for("the keeper to leave", lambda: rig.status is not None)
    assert rig.said.count("closing") > before


def test_a_banner(make_rig: MakeRig) -> None:
    rig = make_rig(banner="Authorised gardeners only")
    assert b"Authorised gardeners only\n" in rig.ssh("true").stderr


def test_no_more_sessions_than_allowed(make_rig: MakeRig) -> None:
    """ssh shows the reason where the connection is, and goes on by one of its own."""
    rig = make_rig(limits={"sessions": 2})
    control = rig.folder / "control"
    words = ("-o", f"ControlPath={control}")
    log = rig.folder / "master.log"
    with log.open("wb") as errors:
        master = subprocess.Popen(
            rig.command("-M", "-N", *words), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        wait_for("the master", control.exists)
        running = [rig.popen("echo in; cat", options=words) for _ in range(2)]
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == b"in\n"
        done = rig.ssh(*words, "echo another")
        assert b"Session open refused by peer" in done.stderr
        assert done.stdout == b"another\n"
        for process in running:
            process.communicate(timeout=LIMIT)
        # OpenSSH 9.2 may miss a SIGTERM that comes while a session ends, and waits for ever.
        master.kill()
        master.wait(LIMIT)
    assert b"too many sessions on this connection, 2 are allowed" in log.read_bytes()
