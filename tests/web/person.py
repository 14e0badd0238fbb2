"""Somebody before the page: what they do and what they see, in the words of the tests."""

from __future__ import annotations

import base64
import json
import re
import ssl
import time
from http.client import HTTPSConnection
from http.cookies import SimpleCookie
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.scenarios.cluster import LIMIT, SLOWNESS, Cluster, text, wait_for
from tinyport.auth.second_factor import STEP, code_at

PASSWORD = "correct horse battery"
PHONE = {"width": 390, "height": 844}
#: addresses of loopback that people come from
SOURCES = (f"127.0.1.{number}" for number in range(1, 250))
DESK = {"width": 1280, "height": 800}


class Person:
    """One browser profile. ``page``: Playwright's. Whatever the browser's console complains about is in ``complaints``,
    what the policy of the page forbade among it."""

    def __init__(self, chromium: Any, cluster: Cluster) -> None:
        self._chromium = chromium
        self.cluster = cluster
        self.base = f"https://{cluster.ready['proxy']}"
        self.complaints: list[str] = []
        self.page: Any = None

    def __enter__(self) -> Person:
        # The proxy made its certificate itself: who connects compares its fingerprint, which is not the tests' subject.
        self.context = self._chromium.new_context(ignore_https_errors=True, viewport=DESK, locale="en-GB")
        self.context.set_default_timeout(min(LIMIT, 20 * SLOWNESS) * 1000)
        self.page = self.new_page()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.context.close()

    def new_page(self) -> Any:
        page = self.context.new_page()
        page.on("console", lambda message: self._said(message))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        return page

    def _said(self, message: Any) -> None:
        # A refused request is logged by the browser itself; the tests look at what the page makes of it.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(f"{message.type}: {message.text}")

    # ------------------------------------------------------------------ getting in

    def invited(self, name: str, roles: str = "access", logins: str | None = None) -> str:
        """The address of an invitation for a new user."""
        words = ("users", "add", name, "--logins", logins or self.cluster.login_name, "--roles", roles)
        done = self.cluster.tctl(*words, "--format", "json")
        assert done.returncode == 0, text(done)
        return str(json.loads(done.stdout)["urls"][0])

    def joins(self, name: str, roles: str = "access", logins: str | None = None) -> None:
        """Be a new user who is logged in. What the pages do for that is done here, and from an address of one's own: so
        many people do not come from one within a minute, and the proxy would have them wait."""
        invitation = self.invited(name, roles, logins).partition("#")[2]
        self._source = next(SOURCES)
        self._post("signup", {"invitation": invitation, "password": PASSWORD})
        self._logged_in({"user": name, "password": PASSWORD})

    def joins_with_a_factor(self, name: str, roles: str) -> str:
        """As ``joins``, with a second factor. The code that it shows next."""
        invitation = self.invited(name, roles).partition("#")[2]
        self._source = next(SOURCES)
        _, answer = self._post("invitation", {"invitation": invitation})
        secret, step = base64.b32decode(answer["totp"]["secret"]), int(time.time()) // STEP
        # A code counts once, and those of the steps before and after are good, too.
        codes = [code_at(secret, step + drift) for drift in (-1, 0, 1)]
        self._post("signup", {"invitation": invitation, "password": PASSWORD, "otp": codes[0]})
        self._logged_in({"user": name, "password": PASSWORD, "otp": codes[1]})
        return codes[2]

    def _logged_in(self, body: dict[str, str]) -> None:
        cookies, _ = self._post("login", body)
        cookie = SimpleCookie(cookies)["__Host-tinyport"]
        self.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": self.base, "secure": True}])
        self.page.goto(self.base)
        self.page.get_by_role("heading", name="Nodes", exact=True).wait_for()

    def _post(self, path: str, body: dict[str, str]) -> tuple[str, Any]:
        """The cookies of the answer, and what it says."""
        host, _, port = self.cluster.ready["proxy"].rpartition(":")
        context = ssl.create_default_context(cafile=str(self.cluster.data / "proxy" / "web.pem"))
        connection = HTTPSConnection(host, int(port), source_address=(self._source, 0), context=context, timeout=LIMIT)
        try:
            headers = {"Origin": self.base, "Content-Type": "application/json"}
            connection.request("POST", f"/web/api/{path}", json.dumps(body), headers)
            answer = connection.getresponse()
            said = answer.read()
            assert answer.status == 200, said
            return answer.headers.get("Set-Cookie", ""), json.loads(said)
        finally:
            connection.close()

    def goes_to(self, page: str) -> None:
        self.page.evaluate("where => { location.hash = where }", f"#/{page}")

    # ------------------------------------------------------------------ terminals

    def connects(self) -> None:
        """Open a terminal on the cluster's node."""
        self.goes_to("nodes")
        self.page.get_by_role("button", name=re.compile(f"^Connect to {re.escape(self.cluster.node)} as")).click()
        self.connected()

    def connected(self) -> None:
        self.page.get_by_text("Connected").first.wait_for()

    def types(self, keys: str) -> None:
        self.page.locator(".xterm-helper-textarea").focus()
        self.page.keyboard.type(keys)

    def enters(self, line: str) -> None:
        self.types(line)
        self.page.keyboard.press("Enter")

    @property
    def screen(self) -> str:
        """What the terminal shows, line by line."""
        rows: list[str] = self.page.locator(".xterm-rows > div").all_inner_texts()
        return "\n".join(row.replace("\xa0", " ").rstrip() for row in rows)

    def sees(self, words: str) -> None:
        """Wait until the screen has these words."""
        try:
            wait_for(f"{words!r} on the screen", lambda: words in self.screen)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.screen}\n{self.page.inner_text('main')[:500]}") from None

    # ------------------------------------------------------------------ pictures

    def picture(self, folder: Path, name: str) -> None:
        self.page.screenshot(path=str(folder / f"{name}.png"))
