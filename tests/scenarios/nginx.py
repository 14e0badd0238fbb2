"""nginx before a proxy, in every way that docs/load-balancers.md has."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.ports import free_port
from tests.scenarios.cluster import LIMIT, wait_for

STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

# As docs/load-balancers.md has it, and what makes it run in a folder of the test's. Where it passes TCP on, it comes to
# the proxy from one address, where it speaks HTTP from another, and clients come from a third.
TCP, HTTP, CLIENT = "127.0.0.2", "127.0.0.3", "127.0.0.1"
PROXY = f"""proxy_protocol_from = ["{TCP}/32"]
forwarded = {{ from = ["{HTTP}/32"] }}"""
WAYS = {
    "relay": "listen {address}; proxy_pass {proxy};",
    "tcp ends": "listen {address} ssl; proxy_pass {proxy};",
    "tcp again": "listen {address} ssl; proxy_pass {proxy}; proxy_ssl on;",
    "ends": "location = /v1/connect {{ proxy_pass http://{proxy}; }}",
    "again": "location = /v1/connect {{ proxy_pass https://{proxy}; }}",
}
CONFIGURATION = """
load_module {stream_module};
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log info;
events {{ worker_connections 256; }}
stream {{
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    proxy_bind {tcp}; proxy_protocol on; proxy_timeout 1h;
    {streams}
}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    proxy_bind {http};
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_buffering off;
    proxy_read_timeout 5m;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    {servers}
}}
"""


class Nginx:
    """``ways``: of each way above, where it begins."""

    def __init__(self, folder: Path, proxy: str) -> None:
        folder.mkdir()
        self.folder = folder
        self.ways = {way: f"127.0.0.1:{free_port()}" for way in WAYS}
        made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        files = ("-keyout", folder / "key.pem", "-out", folder / "cert.pem")
        subprocess.run([*made, "-days", "2", "-subj", "/CN=port.example", *files], check=True, capture_output=True)
        lines = {way: WAYS[way].format(address=address, proxy=proxy) for way, address in self.ways.items()}
        pages = f"location / {{ proxy_pass https://{proxy}; }}"
        streams = [f"server {{ {line} }}" for line in lines.values() if line.startswith("listen")]
        servers = [
            f"server {{ listen {self.ways[way]} ssl; {line} {pages} }}"
            for way, line in lines.items()
            if not line.startswith("listen")
        ]
        (folder / "nginx.conf").write_text(
            CONFIGURATION.format(
                folder=folder,
                tcp=TCP,
                http=HTTP,
                streams="\n".join(streams),
                servers="\n".join(servers),
                stream_module=STREAM_MODULE,
            )
        )
        self._process = subprocess.Popen(
            [need_program("nginx"), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")],
            stderr=subprocess.DEVNULL,
        )
        wait_for("nginx", self._serves)

    def _serves(self) -> bool:
        try:
            for address in self.ways.values():
                host, _, port = address.partition(":")
                socket.create_connection((host, int(port))).close()
        except OSError:
            assert self._process.poll() is None, (self.folder / "error.log").read_text()
            return False
        return True

    def asked(self) -> list[str]:
        """The paths that were asked for where it ends TLS, of requests that have ended."""
        lines = (self.folder / "access.log").read_text().splitlines()
        return [line.split('"')[1].split()[1] for line in lines]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(LIMIT)


def start_nginx(folder: Path, proxy: str) -> Nginx:
    """Skips where nginx cannot pass TCP on."""
    # Its worker is another user than root.
    for above in (folder, *list(folder.parents)[:2]):
        os.chmod(above, 0o711)
    if not STREAM_MODULE.exists():
        pytest.skip("nginx has no stream module; apt install libnginx-mod-stream")
    return Nginx(folder / "nginx", proxy)
