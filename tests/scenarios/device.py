"""A device of a scenario's own: a node that joins a cluster at some address, stops and starts again."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.scenarios.cluster import BIN, LIMIT, Cluster


class Device:
    """A node called ``name``, whose files are below ``folder``. ``around``: what stands before its command line;
    ``listen``: TOML, its own ports; ``node``: more lines of its ``[node]``; ``token``: what it joins with ("": nothing,
    None: a new one), where it has no identity."""

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        server: str,
        *,
        name: str = "device",
        around: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        listen: str = "",
        node: str = "",
        token: str | None = None,
    ) -> None:
        self._cluster = cluster
        self._folder = folder
        self._env = dict(env or {})
        self.token = cluster.tctl_json("tokens", "add", "--type", "node")["token"] if token is None else token
        config = folder / f"{name}.toml"
        config.write_text(
            f'[tinyport]\nnodename = "{name}"\ndata_dir = "{folder}/data"\n[node]\nlisten = [{listen}]\n{node}\n'
        )
        self._words = [*around, str(BIN / "tinyport"), "start", "-c", str(config), "--roles=node", "--server", server]
        self._words += ["--ca-pin", cluster.ready["ca_pin"]]
        self._own = len(self._words) - len(around)
        self._process: subprocess.Popen[bytes] | None = None

    def clock(self, python: str, env: Mapping[str, str]) -> None:
        """From its next start on it runs by another interpreter, which has a clock of its own."""
        self._words = [python, *self._words[-self._own :]]
        self._env.update(env)

    @property
    def data(self) -> Path:
        return self._folder / "data"

    def start(self, passed: Sequence[int] = ()) -> None:
        """``passed``: descriptors that it gets under their own numbers."""
        env = {**self._cluster.env(), **self._env}
        with (self._folder / "device.log").open("ab") as log:
            words = [*self._words, *(["--token", self.token] if self.token else [])]
            self._process = subprocess.Popen(words, stdout=log, stderr=log, env=env, pass_fds=passed)

    @property
    def pid(self) -> int:
        """Of its monitor."""
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(LIMIT)
            self._process = None

    def status(self) -> str:
        """What ``tinyport status`` says there; "" while it does not run."""
        done = self._cluster.run(BIN / "tinyport", "status", "--data-dir", self.data)
        return done.stdout.decode() if done.returncode == 0 else ""

    def log(self) -> str:
        return (self._folder / "device.log").read_text(errors="replace")
