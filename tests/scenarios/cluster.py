"""A whole cluster on loopback for the scenarios: ``tinyport quickstart`` and the commands that people type."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyport.admin.quickstart import CLUSTER_NAME, first_configuration
from tinyport.core.errors import TinyportError
from tinyport.host.machine import api_socket
from tinyport.link.api import AuthClient

# Slow boards and busy machines multiply every limit; no test asserts how long something takes.
SLOWNESS = float(os.environ.get("TINYPORT_TEST_SLOWNESS", "1"))
LIMIT = 60 * SLOWNESS

BIN = Path(sys.executable).parent


def wait_for(what: str, check: Callable[[], Any], limit: float = LIMIT) -> Any:
    """Poll until ``check`` returns something true, and return it; AssertionError naming ``what`` after ``limit``
    seconds.
    """
    end = time.monotonic() + limit
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < end, f"waited {limit:.0f} s for {what}"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Does the process run? A zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class Cluster:
    """One quickstart: started by ``start``, ended by ``stop``. Every file of it is below ``folder``.

    ``around``: what stands before its command line, such as ``unshare --mount``. ``name``: the cluster's, where
    quickstart's own would not do. ``proxy``: more lines of its ``[proxy]``. ``listen``: where that is.
    ``environment``: what its programs find in theirs besides. ``level``: of its log.
    """

    def __init__(
        self,
        folder: Path,
        around: Sequence[str] = (),
        name: str | None = None,
        *,
        proxy: str = "",
        listen: str = "127.0.0.1:0",
        environment: Mapping[str, str] | None = None,
        level: str | None = None,
    ) -> None:
        self._around = list(around)
        self.folder = folder
        self.data = folder / "data"
        self.ready: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "quickstart.log"
        self._listen = listen
        self._environment = dict(environment or {})
        if name is not None or proxy or level:
            self.data.mkdir(mode=0o700)
            usual = first_configuration(self.data, listen)
            named = usual.replace(json.dumps(CLUSTER_NAME), json.dumps(name or CLUSTER_NAME))
            more = named.replace("[proxy]\n", f"[proxy]\n{proxy}\n")
            if level is not None:
                more = more.replace("[tinyport]\n", f'[tinyport]\nlog = {{ level = "{level}" }}\n')
            (self.data / "tinyport.toml").write_text(more)

    # ------------------------------------------------------------------ life

    def start(self) -> Cluster:
        ready_file = self.folder / "ready.json"
        ready_file.unlink(missing_ok=True)
        command = [*self._around, str(BIN / "tinyport"), "quickstart", "--data-dir", str(self.data)]
        command += ["--listen", self._listen, "--ready-file", str(ready_file)]
        environment = {**self.env(), **self._environment}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        process = self._process

        def served() -> bool:
            assert process.poll() is None, f"quickstart ended with {process.returncode}:\n{self.log()}"
            return ready_file.exists()

        try:
            wait_for("quickstart to serve", served)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None
        self.ready = json.loads(ready_file.read_text())
        return self

    def stop(self) -> None:
        process = self._process
        if process is None:
            return
        self._process = None
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"quickstart did not stop on SIGTERM:\n{self.log()}") from None

    @property
    def pid(self) -> int:
        """Of quickstart, whose children all others are."""
        assert self._process is not None
        return self._process.pid

    def log(self, most: int = 20_000) -> str:
        """The end of what its programs wrote."""
        return self._log.read_text(errors="replace")[-most:]

    # ------------------------------------------------------------------ commands

    def env(self, home: str = "tsh") -> dict[str, str]:
        """The environment of a person's commands: a profile folder of their own, nothing else of this session's."""
        kept = {
            name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "HOME", "USER", "LOGNAME")
        }
        kept["PATH"] = f"{BIN}:{kept['PATH']}"
        kept["TINYPORT_HOME"] = str(self.folder / home)
        return kept

    def run(
        self,
        *words: str | Path,
        input: bytes | str = b"",
        home: str = "tsh",
        env: Mapping[str, str] | None = None,
        limit: float = LIMIT,
    ) -> subprocess.CompletedProcess[bytes]:
        data = input.encode() if isinstance(input, str) else input
        return subprocess.run(
            [str(word) for word in words],
            input=data,
            capture_output=True,
            timeout=limit,
            env={**self.env(home), **(env or {})},
            check=False,
        )

    def tctl(self, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return self.run(BIN / "tctl", "-c", self.data / "tinyport.toml", *words, **options)

    def tctl_json(self, *words: str) -> Any:
        done = self.tctl(*words, "--format", "json")
        assert done.returncode == 0, text(done)
        return json.loads(done.stdout)

    def tsh(self, *words: str | Path, home: str = "tsh", **options: Any) -> subprocess.CompletedProcess[bytes]:
        """tsh as the user whose profile is in ``home``; as the administrator for home "admin"."""
        before: tuple[str | Path, ...] = ()
        if home == "admin":
            before = ("-i", Path(self.ready["admin_identity"]), "--proxy", self.ready["proxy"])
        return self.run(BIN / "tsh", *before, *words, home=home, **options)

    def add_user(self, name: str, logins: str, roles: str = "access", password: str = "correct horse battery") -> str:
        """Invite, sign up and log in: a profile folder named like the user. Returns that name."""
        invited = self.tctl("users", "add", name, "--logins", logins, "--roles", roles, "--format", "json")
        assert invited.returncode == 0, text(invited)
        url = json.loads(invited.stdout)["urls"][0]
        pin = self.ready["ca_pin"]
        done = self.tsh("signup", url, "--ca-pin", pin, home=name, input=f"{password}\n")
        assert done.returncode == 0, text(done)
        self.login(name, password)
        return name

    def login(self, name: str, password: str = "correct horse battery", *more: str) -> None:
        words = ("login", "--proxy", self.ready["proxy"], "--user", name, "--ca-pin", self.ready["ca_pin"], *more)
        done = self.tsh(*words, home=name, input=f"{password}\n")
        assert done.returncode == 0, text(done)

    def ssh_config(self, home: str) -> Path:
        """What ``tsh config`` prints, in a file for ``ssh -F``."""
        done = self.tsh("config", home=home)
        assert done.returncode == 0, text(done)
        path = self.folder / f"ssh_config.{home}"
        path.write_bytes(done.stdout)
        return path

    @property
    def node(self) -> str:
        return str(self.ready["nodename"])

    @property
    def login_name(self) -> str:
        return str(self.ready["login"])

    def node_status(self, name: str | None = None) -> str:
        """What auth says of a node: by its socket, since tests ask this again and again, and a command takes a tenth
        of a second of the processor's.
        """
        try:
            with AuthClient(api_socket(self.data)) as client:
                nodes: Any = client.request("GET", "/v1/nodes")["nodes"]
        except TinyportError:
            return "auth is away"
        found = [str(node["status"]) for node in nodes if node["name"] == (name or self.node)]
        return found[0] if found else "absent"


def text(done: subprocess.CompletedProcess[bytes]) -> str:
    """What a finished command said, for messages of failed assertions."""
    words = " ".join(shlex.quote(str(word)) for word in done.args)
    out, err = (stream.decode(errors="replace")[-4000:] for stream in (done.stdout, done.stderr))
    return f"{words}\nstatus {done.returncode}\n--- stdout\n{out}\n--- stderr\n{err}"
