"""Who somebody is: an invitation with a second factor, logging in with it, what ends a session."""

from __future__ import annotations

import base64
import time
from pathlib import Path

from tests.scenarios.cluster import text
from tests.web.person import PASSWORD, Person
from tinyport.auth.second_factor import STEP, code_at


def test_from_the_invitation_to_a_shell_with_a_second_factor(person: Person, pictures: Path) -> None:
    page = person.page
    page.goto(person.invited("totti"))
    page.get_by_role("heading", name="Welcome, totti").wait_for()
    page.get_by_role("img", name="QR code").wait_for()
    page.get_by_text("It cannot be scanned").click()
    person.picture(pictures, "invitation-totp")
    secret = base64.b32decode(page.locator(".secret").inner_text())
    page.get_by_label("New password").fill(PASSWORD)
    page.get_by_label("The same again").fill("something else")
    step = int(time.time()) // STEP
    page.get_by_label("Code from").fill(code_at(secret, step))
    page.get_by_role("button", name="Accept").click()
    page.get_by_text("The two passwords differ").wait_for()
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_label("Code from").fill(code_at(secret, step))
    page.get_by_role("button", name="Accept").click()
    # The invitation is gone from the address bar; the code is used up, so the next one logs in.
    page.get_by_text("Your account is ready").wait_for()
    assert "#" not in page.url
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Second factor").wait_for()
    page.get_by_label("Code from").fill("000000")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("alert").wait_for()
    page.get_by_label("Code from").fill(code_at(secret, step + 1))
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Nodes", exact=True).wait_for()
    person.connects()
    person.enters("echo $((6 * 7))-there")
    person.sees("42-there")
    assert person.complaints == []


CAREFUL = """
kind = "role"
name = "careful"

[allow]
logins = ["{{internal.logins}}"]
node_labels = { "*" = ["*"] }
rules = [{ resources = ["nodes"], verbs = ["read"] }]

[options]
require_mfa = true
"""


def test_a_terminal_that_asks_for_a_code(person: Person) -> None:
    role = person.cluster.folder / "careful.toml"
    role.write_text(CAREFUL)
    assert person.cluster.tctl("create", "-f", role).returncode == 0
    code = person.joins_with_a_factor("carla", "careful")
    page = person.page
    page.get_by_role("button", name="Connect to").click()
    page.get_by_label("Code from").fill("000000")
    page.get_by_role("tabpanel").get_by_role("button", name="Connect").click()
    page.get_by_role("tabpanel").get_by_role("alert").wait_for()
    page.get_by_label("Code from").fill(code)
    page.get_by_role("tabpanel").get_by_role("button", name="Connect").click()
    person.connected()
    person.enters("echo $((6 * 7))-there")
    person.sees("42-there")
    # One's factors are on the page of one's account, and are changed with a code alone.
    person.goes_to("account")
    page.get_by_role("button", name="Remove first").click()
    page.get_by_label("Code from").fill(code)
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("alert").wait_for()


def test_the_cookie_cannot_be_read_and_a_used_invitation_says_so(person: Person) -> None:
    url = person.invited("irma")
    page = person.page
    page.goto(url)
    page.get_by_label("New password").fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_label("With a second factor").uncheck()
    page.get_by_role("button", name="Accept").click()
    page.get_by_role("heading", name="Nodes", exact=True).wait_for()
    (cookie,) = person.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (
        "__Host-tinyport",
        True,
        True,
        "Strict",
    )
    assert page.evaluate("() => document.cookie") == ""
    assert cookie["value"].partition(".")[2] not in page.content()
    page.goto("about:blank")
    page.goto(url)
    page.get_by_text("The invitation is not valid").wait_for()


def test_web_sessions_are_listed_and_revoked(person: Person, other: Person) -> None:
    person.joins("wilma")
    other.page.goto(other.base)
    other.page.get_by_label("User").fill("wilma")
    other.page.get_by_label("Password").fill(PASSWORD)
    other.page.get_by_role("button", name="Log in").click()
    other.page.get_by_role("heading", name="Nodes", exact=True).wait_for()
    other.connects()
    person.goes_to("account")
    person.page.get_by_role("button", name="End the web session of wilma").click()
    person.page.get_by_role("button", name="End it").click()
    # That browser's terminal ends, and its next step is the log-in.
    other.page.get_by_text("Your web session was ended").wait_for()
    other.goes_to("nodes")
    other.page.get_by_role("heading", name="Log in").wait_for()
    assert other.page.get_by_text("Your session has ended").count() == 1
    person.page.get_by_role("button", name="Log out").click()
    person.page.get_by_text("You are logged out").wait_for()
    person.page.go_back()
    person.page.get_by_role("heading", name="Log in").wait_for()


def test_idle_people_are_warned_and_logged_out(person: Person) -> None:
    page = person.page
    page.add_init_script("const now = Date.now; window.later = 0; Date.now = () => now() + window.later")
    person.joins("ida")
    wait = "minutes => { window.later += minutes * 60000; document.dispatchEvent(new Event('visibilitychange')) }"
    page.evaluate(wait, 28.5)
    page.get_by_role("dialog", name="Still there?").wait_for()
    page.get_by_role("button", name="Stay").click()
    page.get_by_role("dialog").wait_for(state="detached")
    # Half an hour of nothing: the proxy, which counts for itself, says that it is over.
    done = {"error": {"code": "login_required", "message": "you are not logged in"}}
    page.route("**/web/api/renew", lambda route: route.fulfill(status=401, json=done))
    page.evaluate(wait, 31)
    page.get_by_text("You were logged out, because nothing was typed for half an hour").wait_for()


def test_a_lock_reaches_the_page(person: Person) -> None:
    person.joins("lena")
    person.connects()
    done = person.cluster.tctl("lock", "--user", "lena", "--message", "lost laptop")
    assert done.returncode == 0, text(done)
    person.page.get_by_role("button", name="Connect again").wait_for()
    person.page.get_by_role("button", name="Connect again").click()
    person.page.get_by_text("lost laptop").first.wait_for()
