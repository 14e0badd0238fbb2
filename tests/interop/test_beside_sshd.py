"""The same words to a node and to OpenSSH's sshd beside it, by the same client and certificate: the same answers.

What is known to differ, and why, is in docs/sshd.md; here it is left out by name.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.bulk import connected
from bench.servers import HOST, LOGIN, Credentials, Node, Server, StockSshd
from tests.conftest import need_program
from tests.interop.terminal import Terminal

# Without root's rights sshd has no terminals to give.
pytestmark = pytest.mark.root

CIPHER = "aes128-gcm@openssh.com"
LIMIT = 60
Ask = Callable[..., list["Answer"]]
#: (standard output, standard error, status)
Answer = tuple[bytes, bytes, int]

#: in ours alone, or with another value: docs/sshd.md, "What differs"
_OURS = re.compile(rb"^(LANG|PATH|TINYPORT_\w+)=.*\n", re.MULTILINE)
#: the client's and the server's port
_PORTS = re.compile(rb"(?<= )\d+(?= |\n)")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Server, tuple[str, ...]]]]:
    """The node and sshd, each with the options for an open connection to it."""
    need_program("ssh")
    need_program("sshd")
    folder = tmp_path_factory.mktemp("beside")
    credentials = Credentials(folder)
    node, sshd = Node(credentials), StockSshd(credentials)
    try:
        node.start()
        sshd.start()
        with connected(node, CIPHER, folder) as first, connected(sshd, CIPHER, folder) as second:
            yield [(node, first), (sshd, second)]
    finally:
        node.stop()
        sshd.stop()


@pytest.fixture
def ask(servers: list[tuple[Server, tuple[str, ...]]]) -> Ask:
    """``ask(words, options=(), given=b"")`` → what the node and what sshd answer."""

    def asked(*words: str, options: tuple[str, ...] = (), given: bytes | None = b"") -> list[Answer]:
        found = []
        for server, shared in servers:
            argv = server.command(*words, options=(*shared, *options))
            done = subprocess.run(argv, input=given, capture_output=True, timeout=LIMIT, check=False)
            found.append((done.stdout, done.stderr, done.returncode))
        return found

    return asked


COMMANDS = {
    "both streams and a status": "echo out; echo err >&2; exit 7",
    "a status of zero": "true",
    "the largest status": "exit 255",
    "nothing of that name": "/nowhere/no-such-program 2>/dev/null",
    "not a program": "/etc/passwd 2>/dev/null",
    "ended by a signal": "kill -TERM $$",
    "killed": "kill -KILL $$",
    "quotes": """printf '%s|' "a  b" '$HOME' "\\t" 'it'"'"'s' "" last""",
    "letters of the world": "printf '%s' 'Größe 猫 \U0001f408' | od -An -tx1",
    "lines of a command": "echo one\necho two\nexit 3",
    "a long command": "echo " + "x" * 60_000,
    "who": "id",
    "where": "pwd; cd; pwd; umask",
    "limits": "ulimit -a; ulimit -aH",
    "the shell": "echo $0 $# $-; ps -o args= -p $$ | cut -c1-40",
    "signals that it was left": "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status",
    "rights": "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status",
    "descriptors": "ls /proc/self/fd",
    "a session of its own": 'test "$(ps -o sid= -p $$)" -eq $$ && test "$(ps -o pgid= -p $$)" -eq $$ && echo its own',
    "no terminal": "tty; ps -o tty= -p $$; test -e /dev/tty && (: </dev/tty) 2>/dev/null || echo none",
    "how it is scheduled": "nice; cat /proc/self/oom_score_adj; cut -d' ' -f18,19,41 /proc/self/stat",
    "input that is closed": "cat; echo end",
    "output that is closed": "exec >&-; echo still here >&2; exit 4",
    "error that is closed": "exec 2>&-; echo still here; exit 5",
    "a job in the background": "sleep 600 </dev/null >/dev/null 2>&1 & kill -0 $! && echo on; disown 2>/dev/null; true",
    "output after the shell's end": "(sleep 0.2; echo later) & echo sooner",
    "much output": "head -c 3000000 /dev/zero | tr '\\0' x",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_command(ask: Ask, command: str) -> None:
    ours, theirs = ask(command)
    assert ours == theirs


def test_the_environment(ask: Ask) -> None:
    options = ("-o", "SetEnv=LC_ALL=C LC_PAPER=de_DE.UTF-8")
    ours, theirs = (_PORTS.sub(b"PORT", shown) for shown, _, _ in ask("env | sort", options=options))
    assert b"TINYPORT_SESSION=" in ours
    assert b"SSH_CONNECTION=127.0.0.1 PORT 127.0.0.1 PORT\n" in ours
    assert _OURS.sub(b"", ours) == _OURS.sub(b"", theirs)


def test_variables_of_the_client(ask: Ask) -> None:
    options = ("-o", "SetEnv=LD_PRELOAD=/x BASH_ENV=/x ENV=/x IFS=x PERL5LIB=/x HOME=/x PATH=/x SHELL=/x")
    ours, theirs = ask("echo ${LD_PRELOAD-no} ${BASH_ENV-no} ${ENV-no} ${PERL5LIB-no} $HOME $SHELL", options=options)
    assert ours == theirs


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("cat", bytes(range(256)) * 1000),
        ("sort -r", b"a\nc\nb\n"),
        ("head -c 5", b"x" * 2_000_000),
        ("true", b"x" * 2_000_000),
        ("wc -c", b"x" * 5_000_000),
        ("read line; echo $line; exec cat >/dev/null", b"one\ntwo\n"),
        ("", b"echo $0; tty; exit 6\n"),
    ],
    ids=["all bytes", "sorted", "a part", "unread", "counted", "a line", "a shell"],
)
def test_input(ask: Ask, command: str, given: bytes) -> None:
    ours, theirs = ask(*([command] if command else []), options=("-T",), given=given)
    assert ours == theirs


TERMINALS = {
    "modes": "stty -a; stty size",
    "what it is": "tty | tr -d '0-9'; echo $TERM; test $SSH_TTY = $(tty) && echo named",
    "where it is": "test -t 0 && test -t 1 && test -t 2 && echo all three",
    "whose it is": "stat -c '%U %G %a' $(tty); test $(ps -o tpgid= -p $$) -eq $(ps -o pgid= -p $$) && echo foreground",
    "both streams": "echo out; echo err >&2; exit 9",
    "a hangup at the end": "sh -c 'trap \"\" HUP; sleep 0.1' & echo gone",
    "descriptors": "ls /proc/self/fd",
    "signals that it was left": "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status",
    "ended by a signal": "kill -TERM $$",
}


@pytest.mark.parametrize("command", TERMINALS.values(), ids=TERMINALS)
def test_a_terminal(servers: list[tuple[Server, tuple[str, ...]]], command: str) -> None:
    need_program("setsid")
    found = []
    for server, shared in servers:
        with Terminal(server.command(command, options=("-tt", *shared)), {"TERM": "xterm-256color"}) as terminal:
            status = terminal.wait()
            # The client may write before it has made its own terminal raw.
            found.append((re.sub(rb"\r+\n", b"\n", terminal.shown), status))
    assert found[0] == found[1]


def test_requests_that_are_refused(ask: Ask) -> None:
    ours, theirs = ask("no-such-subsystem", options=("-s",))
    # Ours says why, besides, to a client that waits for it.
    assert (ours[0], ours[2]) == (theirs[0], theirs[2])
    assert ours[2] != 0


BATCH = """\
mkdir DIR/new
put DIR/given DIR/new/put
chmod 640 DIR/new/put
ls -ln DIR/new
rename DIR/new/put DIR/new/renamed
ln -s renamed DIR/new/link
ls -1 DIR/new
get DIR/new/link DIR/got
-rmdir DIR/new
-get DIR/nowhere DIR/got
-mkdir DIR/new
rm DIR/new/link
rm DIR/new/renamed
rmdir DIR/new
-ls DIR/new
pwd
"""


def test_sftp(servers: list[tuple[Server, tuple[str, ...]]], tmp_path: Path) -> None:
    need_program("sftp")
    found = []
    for server, shared in servers:
        folder = tmp_path / server.name
        folder.mkdir()
        (folder / "given").write_bytes(b"data" * 1000)
        (tmp_path / "batch").write_text(BATCH.replace("DIR", str(folder)))
        argv = server.command(program="sftp", options=("-b", str(tmp_path / "batch"), *shared))
        done = subprocess.run(argv, capture_output=True, timeout=LIMIT, check=False, text=True)
        shown = (done.stdout + done.stderr).replace(str(folder), "DIR")
        # The day and minute of the file.
        shown = re.sub(r"\w{3} +\d+ +\d\d:\d\d", "TIME", shown)
        # Why something failed: docs/sshd.md.
        shown = re.sub(r"(?<=: )(Failure|Directory not empty|File exists)", "WHY", shown)
        found.append((shown, done.returncode, (folder / "got").read_bytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize("protocol", ["-O", "-s"])
def test_scp(servers: list[tuple[Server, tuple[str, ...]]], tmp_path: Path, protocol: str) -> None:
    need_program("scp")
    found = []
    for server, shared in servers:
        folder = tmp_path / server.name
        (folder / "tree" / "sub").mkdir(parents=True)
        (folder / "tree" / "sub" / "file with spaces").write_bytes(bytes(range(256)))
        (folder / "tree" / "empty").touch(0o600)
        base = server.command(program="scp", options=(protocol, "-rp", *shared))[:-1]
        far = f"{LOGIN}@{HOST}:{folder}"
        runs = [[f"{folder}/tree", f"{far}/up"], [f"{far}/up", f"{folder}/down"], [f"{far}/nowhere", f"{folder}/x"]]
        said = []
        for run in runs:
            done = subprocess.run([*base, *run], capture_output=True, timeout=LIMIT, check=False, text=True)
            said.append((done.returncode, (done.stdout + done.stderr).replace(str(folder), "DIR")))
        names = sorted(
            (str(path.relative_to(folder)), oct(path.stat().st_mode), path.read_bytes() if path.is_file() else b"")
            for path in folder.rglob("*")
        )
        found.append((said, names))
    assert found[0] == found[1]
