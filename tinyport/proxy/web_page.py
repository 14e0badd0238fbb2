"""The page: what ``make web`` built from ``web/``, read once and served from memory."""

from __future__ import annotations

import gzip
import secrets
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

#: where the built files are, in a checkout and in a wheel
PAGE = Path(__file__).parent / "page"
#: marks the place in index.html where each answer has a number of its own
NONCE = "@NONCE@"

# No inline script and no inline style sheet. Style *attributes* are allowed: the terminal colours single letters with
# them, and they cannot run anything. The nonce is for the two style sheets that the terminal makes.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-elem 'self' 'nonce-{nonce}'; "
    "style-src-attr 'unsafe-inline'; img-src 'self' data:; font-src 'self'; connect-src 'self'; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)

_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".txt": "text/plain",
}
#: views of the page that have an address of their own; what stands after "#" never leaves the browser
_ADDRESSES = ("/", "/invite")

NOT_BUILT = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>tinyport</title>
<link rel="stylesheet" href="/style.css"></head><body><main><h1>tinyport</h1>
<p>The web page is not part of this installation. In a checkout, build it with Node.js 18 or newer:</p>
<pre>make web</pre><p>and start the proxy again. <code>tsh</code> and OpenSSH work without it.</p></main></body></html>
"""


class Page:
    """Files of the page, by their address: type, bytes, and the bytes compressed."""

    def __init__(self, index: str, files: Mapping[str, tuple[str, bytes, bytes]]) -> None:
        self._index = index
        self._files = files

    def add_routes(self, router: web.UrlDispatcher) -> None:
        for address in _ADDRESSES:
            router.add_get(address, self._show)
        router.add_get("/assets/{name}", self._asset)

    async def _show(self, request: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        return web.Response(
            text=self._index.replace(NONCE, nonce),
            content_type="text/html",
            headers={
                "Content-Security-Policy": POLICY.format(nonce=nonce),
                "Cross-Origin-Opener-Policy": "same-origin",
            },
        )

    async def _asset(self, request: web.Request) -> web.Response:
        found = self._files.get(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        kind, plain, packed = found
        # Its name has a digest of what is in it.
        headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=packed, content_type=kind, headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(body=plain, content_type=kind, headers=headers)


def read_page(folder: Path) -> Page | None:
    """The built page, or None when it was not built."""
    try:
        index = (folder / "index.html").read_text(encoding="utf-8")
        paths = sorted((folder / "assets").iterdir())
    except OSError:
        return None
    files = {}
    for path in paths:
        kind = _TYPES.get(path.suffix)
        if kind is not None:
            data = path.read_bytes()
            files[path.name] = (kind, data, gzip.compress(data, 9, mtime=0))
    return Page(index, files)


async def not_built(request: web.Request) -> web.Response:
    return web.Response(text=NOT_BUILT, content_type="text/html")
