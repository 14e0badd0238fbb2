"""Every page, light and dark and on a phone: how it looks, and that who cannot see it or uses no mouse has it, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.cluster import wait_for
from tests.web import made_up
from tests.web.conftest import ROOT
from tests.web.person import DESK, PASSWORD, PHONE, Person

AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
PAGES = (
    "nodes",
    "terminals",
    "sessions",
    "recordings",
    f"recordings/{'c' * 32}",
    "audit",
    "users",
    "roles",
    "tokens",
    "pending",
    "locks",
    "account",
    "nowhere",
)
#: (name, dark, viewport)
LOOKS = (("light", False, DESK), ("dark", True, DESK), ("phone", False, PHONE))


def violations(page: Any) -> list[str]:
    """What axe finds, in a line each."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE.read_text())
    found = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{rule['id']}: {node['html'][:200]}: {node['failureSummary'][:300]}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


def overflows(page: Any) -> bool:
    """Does the page, or a table in it, have to be moved sideways?"""
    wider = """() => [document.scrollingElement, ...document.querySelectorAll(".table")]
        .some(part => part.scrollWidth > part.clientWidth)"""
    return bool(page.evaluate(wider))


def looked_at(person: Person, pictures: Path, name: str) -> list[str]:
    """A picture of what is shown in each look, and what is wrong with it."""
    wrong = []
    for look, dark, viewport in LOOKS:
        person.page.emulate_media(color_scheme="dark" if dark else "light", reduced_motion="reduce")
        person.page.set_viewport_size(viewport)
        person.picture(pictures, f"{name}-{look}")
        wrong += [f"{name}, {look}: {line}" for line in violations(person.page)]
        if overflows(person.page):
            wrong.append(f"{name}, {look}: wider than the window")
    person.page.set_viewport_size(DESK)
    return wrong


def test_every_page(person: Person, pictures: Path) -> None:
    made_up.fill(person)
    person.joins("paula", roles="access,admin", logins=f"{person.cluster.login_name},pi")
    page = person.page
    wrong = []
    for name in PAGES:
        person.goes_to(name)
        page.locator("main h1").first.wait_for()
        page.wait_for_function("() => !document.querySelector('.loading')")
        if "/" in name:
            person.sees("line 0 of 40")
        wrong += looked_at(person, pictures, name.partition("/")[0] + ("-player" if "/" in name else ""))
    for name in ("new-pi", "odd-pi"):
        person.goes_to("pending")
        page.get_by_role("button", name=f"Accept {name}").click()
        page.get_by_role("dialog").wait_for()
        wrong += looked_at(person, pictures, f"dialog-accept-{name}")
        page.keyboard.press("Escape")
    assert wrong == [], "\n".join(wrong)
    # Nothing that a node or a person is called became part of the page.
    assert page.locator("main script, main img").count() == 0
    assert person.complaints == []


def test_a_terminal_and_dialogs(person: Person, pictures: Path) -> None:
    person.joins("dora", roles="access,admin")
    page = person.page
    person.connects()
    person.enters(
        "PS1='pi@greenhouse:~$ '; clear; ls --color=always /; printf '\\033[1;31mred \\033[44mon blue\\033[0m\\n'"
    )
    person.sees("on blue")
    wrong = looked_at(person, pictures, "terminal")
    for name, where, button in (
        ("invite", "users", "Invite somebody"),
        ("role", "roles", "New role"),
        ("token", "tokens", "New token"),
        ("lock", "locks", "New lock"),
        ("labels", "nodes", f"Labels of {person.cluster.node}"),
    ):
        person.goes_to(where)
        opener = page.get_by_role("button", name=button).first
        opener.click()
        page.get_by_role("dialog").wait_for()
        wrong += looked_at(person, pictures, f"dialog-{name}")
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="detached")
        # The focus is back where it was.
        assert opener.evaluate("button => button === document.activeElement")
    assert wrong == [], "\n".join(wrong)
    assert person.complaints == []


def test_the_outside(person: Person, pictures: Path) -> None:
    page = person.page
    page.goto(person.base)
    page.get_by_role("heading", name="Log in").wait_for()
    wrong = looked_at(person, pictures, "login")
    page.get_by_label("User").fill("nobody")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("alert").wait_for()
    wrong += looked_at(person, pictures, "login-refused")
    page.goto(f"{person.base}/invite#no.invitation")
    page.get_by_role("alert").wait_for()
    wrong += looked_at(person, pictures, "invitation-refused")
    # Another document, or only the part after "#" would change.
    page.goto("about:blank")
    page.goto(person.invited("ottilie"))
    page.get_by_role("heading", name="Welcome, ottilie").wait_for()
    wrong += looked_at(person, pictures, "invitation")
    assert wrong == [], "\n".join(wrong)


def test_a_keyboard_is_enough(person: Person) -> None:
    person.joins("kim")
    page = person.page
    person.cluster.tctl("users", "add", "other")
    # A page that was just loaded: the first Tab is the way past the menu.
    page.reload()
    page.get_by_role("heading", name="Nodes", exact=True).wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "To the content"
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "main"
    connect = page.get_by_role("button", name="Connect to")
    for _ in range(6):
        if connect.evaluate("button => button === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    person.connected()
    # The way out of a terminal, where Tab is the program's.
    person.types("")
    page.keyboard.press("Control+Shift+Escape")
    assert page.evaluate("() => document.activeElement.getAttribute('role')") == "tab"


@pytest.mark.parametrize("chosen", ["Light", "Dark"])
def test_light_or_dark_is_chosen_and_kept(person: Person, chosen: str) -> None:
    page = person.page
    page.emulate_media(color_scheme="light" if chosen == "Dark" else "dark")
    page.goto(person.base)
    page.get_by_role("radio", name=chosen).check(force=True)
    background = "() => getComputedStyle(document.body).backgroundColor"
    first = page.evaluate(background)
    page.reload()
    page.get_by_label("Password").wait_for()
    assert page.evaluate(background) == first
    page.get_by_role("radio", name="As the system").check(force=True)
    assert page.evaluate(background) != first


def test_on_a_phone(person: Person) -> None:
    page = person.page
    page.set_viewport_size(PHONE)
    page.goto(person.invited("felix"))
    page.get_by_label("New password").fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_label("With a second factor").uncheck()
    page.get_by_role("button", name="Accept").click()
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("link", name="Your account").click()
    page.get_by_role("heading", name="Your account").wait_for()
    person.connects()
    person.enters("PS1='> '; clear; echo wait-$((1 + 1)); read -rsn1 key; printf 'key-%d\\n' \"'$key\"")
    wait = person.sees
    wait("wait-2")
    page.get_by_role("button", name="Esc").click()
    wait("key-27")
    # Ctrl holds for one letter: here it ends what runs.
    person.enters("clear; sleep 1000; echo ended-$((1 + 1))")
    page.get_by_role("button", name="Ctrl").click()
    person.types("c")
    person.enters("echo free-$((2 + 2))")
    wait("free-4")
    page.get_by_role("button", name="Up").click()
    page.keyboard.press("Enter")
    wait("free-4\n> echo free-$((2 + 2))\nfree-4")
    # A finger scrolls back.
    person.enters("clear; seq 1 300")
    wait("\n300\n")
    tools = person.context.new_cdp_session(page)
    tools.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
    box = page.locator(".xterm-screen").bounding_box()
    x, y = box["x"] + 100, box["y"] + 60

    def finger(kind: str, *places: float) -> None:
        tools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": at} for at in places]})

    finger("touchStart", y)
    for step in range(1, 11):
        finger("touchMove", y + 30 * step)
    finger("touchEnd")
    wait_for("older lines", lambda: "300" not in person.screen and "27" in person.screen)
