"""From the invitation to a shell, and what a terminal has to bear: reloads, lost networks, floods."""

from __future__ import annotations

import re

from tests.scenarios.cluster import wait_for
from tests.web.person import Person


def test_a_terminal_shows_and_types_everything(person: Person) -> None:
    person.joins("tessa")
    person.connects()
    person.enters("PS1='> '; echo $((6 * 7))-$TERM-$COLORTERM")
    person.sees("42-xterm-256color-truecolor")
    # Wide letters take two columns, and what is typed arrives as it was.
    person.enters("clear; printf '%s|\\n' 日本 ab; stty size")
    person.sees("日本|")
    # 24 bits of colour, on a letter of its own.
    person.enters(r"printf '\033[38;2;18;163;86mtrue\033[0m \033[38;5;202mcolour\033[0m\n'")
    person.sees("true colour")
    colours = person.page.locator(".xterm-rows span").evaluate_all(
        "spans => spans.filter(span => span.innerText === 'true').map(span => getComputedStyle(span).color)"
    )
    assert len(colours) == 1
    assert colours[0] != person.page.locator(".xterm-rows").evaluate("rows => getComputedStyle(rows).color")
    # The window grows, and the shell on the node hears of it.
    person.enters("clear; stty size")
    wait_for("the size", lambda: re.search(r"^\d+ \d+$", person.screen, re.M))
    before = re.findall(r"^(\d+) (\d+)$", person.screen, re.M)[-1]
    person.page.set_viewport_size({"width": 900, "height": 500})

    def resized() -> bool:
        person.enters("clear; stty size")
        found = re.findall(r"^(\d+) (\d+)$", person.screen, re.M)
        return bool(found) and int(found[-1][0]) < int(before[0]) and int(found[-1][1]) < int(before[1])

    wait_for("the new size", resized)
    assert person.complaints == []


def test_copy_and_paste(person: Person) -> None:
    person.context.grant_permissions(["clipboard-read", "clipboard-write"])
    person.joins("cora")
    person.connects()
    person.enters("clear; echo word-$((1 + 1))")
    person.sees("word-2")
    row = person.page.locator(".xterm-rows > div").filter(has_text="word-2").first
    row.dblclick(position={"x": 12, "y": 8}, force=True)
    person.page.keyboard.press("Control+Shift+C")
    wait_for("the clipboard", lambda: person.page.evaluate("() => navigator.clipboard.readText()") == "word-2")
    person.types("echo pasted-")
    person.page.keyboard.press("Control+Shift+V")
    person.page.keyboard.press("Enter")
    person.sees("\npasted-word-2")


def test_tabs_a_reload_and_another_window(person: Person) -> None:
    person.joins("tabea")
    person.connects()
    person.enters("PS1='> '; name=first; clear")
    person.goes_to("nodes")
    person.connects()
    person.enters("PS1='> '; name=second; clear")
    page = person.page
    tabs = page.get_by_role("tab")
    assert tabs.count() == 2
    person.enters("echo $name-$((2 + 2))")
    person.sees("second-4")
    tabs.nth(0).click()
    person.enters("echo $name-$((1 + 1))")
    person.sees("first-2")
    # The page is loaded again: both come back, with what was on them.
    page.reload()
    person.goes_to("terminals")
    person.connected()
    wait_for("both tabs", lambda: tabs.count() == 2)
    tabs.nth(0).click()
    person.sees("first-2")
    person.enters("echo $name-again-$((1 + 1))")
    person.sees("first-again-2")
    # Another window brings a terminal to itself, and this one says so and can have it back.
    other = person.new_page()
    other.goto(f"{person.base}/#/terminals")
    other.get_by_role("button", name=re.compile("go on here")).first.click()
    page.get_by_text("Shown in another window").wait_for()
    page.get_by_role("button", name="Bring it here").click()
    person.sees("first-again-2")
    page.get_by_role("button", name="Close", exact=True).click()
    wait_for("one tab", lambda: tabs.count() == 1)
    person.types("exit 3\n")
    page.get_by_text("The session has ended with status 3").wait_for()
    assert person.complaints == []


def test_a_lost_network(person: Person) -> None:
    person.joins("nadia")
    person.connects()
    person.enters("PS1='> '; mark=before; clear; echo $mark-one")
    person.sees("before-one")
    person.context.set_offline(True)
    person.page.get_by_text("The network is gone").wait_for()
    # What is typed meanwhile is not lost, and the shell is the same.
    person.enters("echo $mark-two")
    person.context.set_offline(False)
    person.connected()
    person.sees("before-two")
    assert person.screen.count("before-one") == 1


def test_a_flood(person: Person) -> None:
    person.joins("flora")
    person.connects()
    page = person.page
    tools = person.context.new_cdp_session(page)

    def memory() -> float:
        """What the page holds, in MB, less what nobody needs any more."""
        tools.send("HeapProfiler.collectGarbage")
        return float(tools.send("Runtime.getHeapUsage")["usedSize"]) / 1e6

    before = memory()
    # How long the page did not answer at a time, while 50 MB went by.
    page.evaluate(
        """() => {
            window.worst = 0;
            let last = performance.now();
            window.beat = setInterval(() => {
                const now = performance.now();
                window.worst = Math.max(window.worst, now - last);
                last = now;
            }, 20);
        }"""
    )
    person.enters("PS1='> '; clear; head -c 50000000 /dev/zero | tr '\\0' x | fold -w 200; echo the-$((1 + 1))-end")
    person.sees("the-2-end")
    grown = memory() - before
    worst = page.evaluate("() => window.worst")
    print(f"50 MB: {grown:.1f} MB more in the page, which was silent for {worst:.0f} ms at most")
    # A page that kept it all would hold 50 MB and more.
    assert grown < 30
    # `yes` never ends; it is ended from the keyboard, which is heard in between.
    person.enters("clear; yes")
    person.sees("y\ny\ny\n")
    page.keyboard.press("Control+C")
    person.enters("clear; echo after-$((3 + 4))")
    person.sees("after-7")
    assert person.complaints == []
