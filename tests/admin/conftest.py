"""A tiny auth on a unix socket, and a real one: what tctl is tried against."""

from __future__ import annotations

import asyncio
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

PIN = "sha256:" + "ab" * 32
TOKEN = "abcdefghij.klmnopqrstuvwxyz234567ab"


@dataclass
class FakeAuth:
    """Answers what a test tells it to; everything else is 404. ``asked``: (method, path, body) of each request."""

    data_dir: Path
    answers: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)

    def says(self, method: str, path: str, answer: Any, status: int = 200) -> None:
        """``answer``: a JSON object, or a list of them for a newline-delimited answer."""
        self.answers[method, path] = (status, answer)


def _handler(auth: FakeAuth) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            auth.asked.append((self.command, self.path, body))
            missing = (404, {"error": {"code": "not_found", "message": f"no {self.path}", "hint": "look elsewhere"}})
            status, answer = auth.answers.get((self.command, self.path), missing)
            if isinstance(answer, list):
                data = b"".join(json.dumps(line).encode() + b"\n" for line in answer)
            else:
                data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

        def log_message(self, format: str, *args: object) -> None:
            del format, args

        def address_string(self) -> str:
            return "unix"

    return Handler


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def write_config(data_dir: Path) -> Path:
    path = data_dir / "tinyport.toml"
    path.write_text(f'[tinyport]\ndata_dir = "{data_dir}"\n[auth]\ncluster_name = "farm.example"\n')
    return path


@pytest.fixture(autouse=True)
def no_person(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the person who runs the tests: no login, no configuration."""
    for name in ("TINYPORT_CONFIG", "TINYPORT_PROXY", "SSH_CONNECTION", "TINYPORT_USER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TINYPORT_HOME", str(tmp_path / "tsh"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("tinyport.admin.config_file.DEFAULT", tmp_path / "nowhere.toml")


@pytest.fixture
def fake_auth(tmp_path: Path) -> Iterator[FakeAuth]:
    folder = tmp_path / "data"
    (folder / "auth").mkdir(parents=True)
    write_config(folder)
    auth = FakeAuth(folder)
    auth.says("GET", "/v1/hello", {"proxies": ["port.example.com:443"], "cluster": "farm.example"})
    auth.says("GET", "/v1/status", {"cluster": "farm.example", "ca_pins": [PIN]})
    with _Server(str(folder / "auth" / "api.sock"), _handler(auth)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield auth
        server.shutdown()
        thread.join()


@dataclass
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def tctl(capsys: pytest.CaptureFixture[str]) -> Callable[[Path], Run]:
    """``tctl(data_dir)("users", "ls")``."""
    from tinyport.admin.tctl import main

    def at(data_dir: Path) -> Run:
        def run(*words: str) -> Ran:
            capsys.readouterr()
            status = main(["-c", str(data_dir / "tinyport.toml"), *words])
            out, err = capsys.readouterr()
            assert "Traceback" not in err
            return Ran(status, out, err)

        return run

    return at


@pytest.fixture(scope="module")
def real_auth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data_dir of a running auth server, with its configuration file."""
    from tinyport.auth.server import serve
    from tinyport.auth.settings import AuthSettings

    folder = tmp_path_factory.mktemp("auth")
    write_config(folder)
    ready = threading.Event()
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def life() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        settings = AuthSettings(
            data_dir=folder, cluster_name="farm.example", listen=("127.0.0.1", 0), log_level="error"
        )
        await serve(settings, ready=lambda _: ready.set(), stop=stop)

    thread = threading.Thread(target=lambda: asyncio.run(life()))
    thread.start()
    try:
        assert ready.wait(30)
        yield folder
    finally:
        for loop, stop in loops:
            loop.call_soon_threadsafe(stop.set)
        thread.join(30)
