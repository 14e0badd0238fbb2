"""``make demo``: a cluster on loopback, and what one does with it, as a transcript of real commands.

Starts auth and proxy, lets a node join with a token and a CA pin, makes a user who signs up and logs in, runs
commands and
moves a file through the proxy with tsh and with plain OpenSSH, shows the audit log and the processes. In a
terminal it then
leaves you in a shell on the node; otherwise it cleans up and exits with 0. Nothing outside a temporary folder is
touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import secrets
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

BIN = Path(sys.executable).parent
NODE = "greenhouse"
CLUSTER = "farm.example"
LOGIN = pwd.getpwuid(os.getuid()).pw_name
PATIENCE = 60.0
#: A Unix socket's name holds 107 bytes; a deep TMPDIR leaves no room for ours.
LONGEST_FOLDER = 60


class Failed(Exception):
    """A step did not do what it shows."""


def paint(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def title(text: str) -> None:
    print(f"\n{paint('1;36', '# ' + text)}", flush=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Demo:
    """One run, in one folder. ``close`` ends what ``start`` started, in the opposite order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        self.env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "TINYPORT_HOME": str(folder / "tsh")}
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)

    # ------------------------------------------------------------------ processes and commands

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        self._show(words, " &")
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self.env, start_new_session=True
            )
        self.processes.append((name, process, log))
        return process

    def run(self, *words: str, typed: str | None = None, quiet: bool = False, status: int = 0) -> str:
        """Show and run a command; what it prints. Failed when its exit status is not ``status``."""
        if not quiet:
            self._show(words, "")
        done = subprocess.run(
            words,
            input=None if typed is None else typed + "\n",
            stdin=subprocess.DEVNULL if typed is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if not quiet else subprocess.PIPE,
            text=True,
            env=self.env,
            timeout=PATIENCE,
            check=False,
        )
        if not quiet and done.stdout:
            print(done.stdout, end="", flush=True)
        if done.returncode != status:
            raise Failed(f"{shlex.join(words)} ended with {done.returncode}, not {status}\n{done.stderr or ''}")
        return done.stdout

    def _show(self, words: tuple[str, ...], end: str) -> None:
        text = shlex.join(words).replace(str(self.folder), "$DEMO").replace(str(BIN) + "/", "")
        print(paint("1;32", "$ ") + paint("1", text + end), flush=True)

    def wait(self, what: str, check: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not check():
            for name, process, log in self.processes:
                if process.poll() is not None:
                    raise Failed(f"{name} ended with {process.returncode}:\n{log.read_text(errors='replace')[-3000:]}")
            if time.monotonic() > end:
                logs = "".join(
                    f"--- {name}\n{log.read_text(errors='replace')[-3000:]}" for name, _, log in self.processes
                )
                raise Failed(f"waited {PATIENCE:.0f} s for {what}\n{logs}")
            time.sleep(0.05)

    def close(self) -> None:
        for _, process, _ in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    # ------------------------------------------------------------------ the story

    def cluster(self) -> None:
        title("Auth and proxy: two processes on loopback, one SQLite file, no root needed")
        self.proxy = f"127.0.0.1:{free_port()}"
        self.config = str(self.folder / "tinyport.toml")
        Path(self.config).write_text(
            f'[tinyport]\ndata_dir = {json.dumps(str(self.folder / "server"))}\nlog = {{ level = "warning" }}\n'
            f'[auth]\nenabled = true\ncluster_name = "{CLUSTER}"\nlisten = "127.0.0.1:{free_port()}"\n'
            f'[proxy]\nenabled = true\nlisten = "{self.proxy}"\npublic_addr = ["{self.proxy}"]\n'
        )
        print(Path(self.config).read_text().replace(str(self.folder), "$DEMO"), end="")
        self.start("server", "tinyport", "start", "-c", self.config)
        self.wait("auth and proxy", self._serving)
        self.run("tctl", "-c", self.config, "status")

    def _serving(self) -> bool:
        words = ["tctl", "-c", self.config, "status", "--format", "json"]
        done = subprocess.run(words, capture_output=True, env=self.env, timeout=PATIENCE, check=False)
        if done.returncode:
            return False
        return any(proxy.get("online") for proxy in json.loads(done.stdout).get("proxies", []))

    def node(self) -> None:
        title("A node joins with a token and the CA's pin, and needs no open port")
        made = json.loads(
            self.run("tctl", "-c", self.config, "tokens", "add", "--type", "node", "--format", "json", quiet=True)
        )
        self.pin = made["ca_pins"][0]
        token = self.folder / "token"
        token.touch(0o600)
        token.write_text(made["token"])
        config = self.folder / "node.toml"
        config.write_text(f"[node]\nenabled = true\nlisten = []\nuser = {json.dumps(self._service_user())}\n")
        self.start(
            "node",
            *("tinyport", "start", "-c", str(config), "--roles=node", "--data-dir", str(self.folder / "node")),
            *("--server", self.proxy, "--token", str(token), "--ca-pin", self.pin, "--nodename", NODE),
        )
        self.wait("the node", self._online)
        self.run("tctl", "-c", self.config, "nodes", "label", NODE, "site=berlin")
        self.run("tctl", "-c", self.config, "nodes", "ls")

    @staticmethod
    def _service_user() -> str:
        try:
            return pwd.getpwnam("tinyport").pw_name
        except KeyError:
            return "nobody"

    def _online(self) -> bool:
        words = ("tctl", "-c", self.config, "nodes", "ls", "--format", "json")
        nodes = json.loads(self.run(*words, quiet=True))["nodes"]
        return any(node["name"] == NODE and node["status"] == "online" for node in nodes)

    def user(self) -> None:
        title("A user is invited, signs up, and logs in: a certificate for twelve hours")
        words = ("tctl", "-c", self.config, "users", "add", "alice", "--logins", LOGIN, "--roles", "access")
        invited = json.loads(self.run(*words, "--format", "json"))
        password = self.password = secrets.token_urlsafe(12)
        self.run("tsh", "signup", invited["urls"][0], "--ca-pin", self.pin, typed=password)
        self.run("tsh", "login", "--proxy", self.proxy, "--user", "alice", "--ca-pin", self.pin, typed=password)
        self.run("tsh", "status")
        self.run("tsh", "ls")

    def sessions(self) -> None:
        title("Commands on the node, through the proxy, with tsh")
        self.run("tsh", "ssh", f"{LOGIN}@{NODE}", "echo hello from $(uname -sm) as $USER")
        self.run("tsh", "ssh", f"{LOGIN}@site=berlin", "exit 7", status=7)
        title("A refusal tells the truth to who may hear it")
        self.run("tsh", "ssh", f"daemon@{NODE}", "true", status=255)
        self.run("tsh", "ssh", f"{LOGIN}@nowhere", "true", status=255)
        title("A real file, there and back")
        source, back = self.folder / "photo", self.folder / "photo.back"
        source.write_bytes(os.urandom(3_000_000))
        there = f"{LOGIN}@{NODE}:{self.folder / 'photo.there'}"
        self.run("tsh", "scp", str(source), there)
        self.run("tsh", "scp", there, str(back))
        digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (source, back)}
        if len(digests) != 1:
            raise Failed("the file came back changed")
        print(f"sha256 {digests.pop()}  the same on both sides")

    def openssh(self) -> None:
        if shutil.which("ssh") is None:
            title("Plain OpenSSH: not installed here, left out")
            return
        title("Plain OpenSSH, with what tsh config prints, and by jumping through the proxy")
        config = self.folder / "ssh_config"
        self._show(("tsh", "config"), f" > {config}")
        config.write_text(self.run("tsh", "config", quiet=True))
        options = ("-F", str(config), "-o", "BatchMode=yes")
        self.run("ssh", *options, f"{LOGIN}@{NODE}.{CLUSTER}", "echo hello through ProxyCommand")
        jump = f"{LOGIN}@{self.proxy}"
        self.run("ssh", *options, "-J", jump, f"{LOGIN}@{NODE}.{CLUSTER}", "echo hello through -J")

    def page(self) -> None:
        title("The web page, from the same port")
        context = ssl.create_default_context(cafile=str(self.folder / "server" / "proxy" / "web.pem"))
        with urllib.request.urlopen(f"https://{self.proxy}/", context=context, timeout=PATIENCE) as answer:
            text = answer.read().decode()
        if "<script" not in text:
            print('This checkout has no page yet: "make web" builds it, with Node.js 18 or newer.')
            return
        print(f"https://{self.proxy}/  (its certificate is self-made: the browser asks)")
        if terminal(sys.stdin) and terminal(sys.stdout):
            print(f"log in as alice, with the password {self.password}")

    def after(self) -> None:
        title("What happened")
        self.run("tctl", "-c", self.config, "audit", "--limit", "12")
        title("The processes, with their memory (MB)")
        print(f"{'PID':>7}  {'PSS':>6} {'PRIVATE':>8}  PROCESS")
        for name, process, _ in self.processes:
            for pid in descendants(process.pid):
                print(memory_line(pid, name))

    def shell(self) -> None:
        title("A shell on the node. exit ends the demo")
        self._show(("tsh", "ssh", f"{LOGIN}@{NODE}"), "")
        subprocess.run(["tsh", "ssh", f"{LOGIN}@{NODE}"], env=self.env, check=False)


def descendants(pid: int) -> list[int]:
    """A process and all that it started, the parents first."""
    found = [pid]
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return found
    for child in children:
        found += descendants(int(child))
    return found


def memory_line(pid: int, tree: str) -> str:
    numbers = {"Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            key = line.partition(":")[0]
            if key in numbers:
                numbers[key] = int(line.split()[1])
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        # A worker that became idle and left, or one that is another user's.
        return f"{pid:>7}  {'-':>6} {'-':>8}  {tree}"
    private = numbers["Private_Clean"] + numbers["Private_Dirty"]
    return f"{pid:>7}  {numbers['Pss'] / 1024:>6.1f} {private / 1024:>8.1f}  {tree}: {name}"


def terminal(stream: IO[str]) -> bool:
    return stream.isatty()


def main() -> int:
    """The demo. 0 when everything it shows was seen to work."""
    base = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="tinyport-demo-", dir=base if len(base) < LONGEST_FOLDER else "/tmp"))  # noqa: S108
    # The node's sessions are this user's (or, for root, anybody's) and reach the photo through this folder.
    demo = Demo(folder)
    try:
        demo.cluster()
        demo.node()
        demo.user()
        demo.sessions()
        demo.openssh()
        demo.page()
        demo.after()
        if terminal(sys.stdin) and terminal(sys.stdout):
            demo.shell()
    except (Failed, subprocess.TimeoutExpired) as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        demo.close()
        shutil.rmtree(folder, ignore_errors=True)
    print(paint("1;32", "\nEverything above was real, and is gone again."))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
