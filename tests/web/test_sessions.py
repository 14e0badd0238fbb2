"""Live sessions and recordings: looking on, typing along, ending; playing, seeking, searching."""

from __future__ import annotations

import re

from tests.scenarios.cluster import text, wait_for
from tests.web import made_up
from tests.web.person import Person


def test_watch_join_and_end_somebody_s_session(person: Person, other: Person) -> None:
    person.joins("boss", roles="access,admin")
    other.joins("worker")
    other.connects()
    other.enters("PS1='> '; clear; echo mark-$((1 + 1))")
    other.sees("mark-2")
    page = person.page
    person.goes_to("sessions")
    page.get_by_role("button", name="Watch worker on").click()
    page.get_by_text("Watching").wait_for()
    other.enters("echo seen-$((2 + 2))")
    person.sees("seen-4")
    other.sees("boss joins as observer")
    # Who watches cannot type.
    person.types("echo intruder\n")
    other.enters("echo later-$((3 + 3))")
    other.sees("later-6")
    assert "intruder" not in other.screen
    person.goes_to("sessions")
    page.get_by_role("button", name="Join worker on").click()
    person.connected()
    person.enters("echo together-$((4 + 4))")
    other.sees("together-8")
    person.goes_to("sessions")
    page.get_by_role("button", name="End the session of worker on").click()
    page.get_by_role("button", name="End it").click()
    other.page.get_by_role("button", name="Connect again").wait_for()
    assert person.complaints == []


RECORDED = """
kind = "role"
name = "recorded"

[allow]
logins = ["{{internal.logins}}"]
node_labels = { "*" = ["*"] }
rules = [{ resources = ["nodes"], verbs = ["read"] }, { resources = ["recordings"], verbs = ["read_own"] }]

[options]
record = "node"
"""


def test_a_session_is_seen_live_and_played_later(person: Person, other: Person) -> None:
    role = person.cluster.folder / "recorded.toml"
    role.write_text(RECORDED)
    done = person.cluster.tctl("create", "-f", role)
    assert done.returncode == 0, text(done)
    other.joins("reba", roles="recorded")
    other.connects()
    other.enters("PS1='> '; clear; echo first-$((1 + 1))")
    other.sees("first-2")
    person.joins("aude", roles="access,auditor")
    page = person.page
    person.goes_to("recordings")
    page.get_by_role("link", name="Watch reba on").click()
    person.sees("first-2")
    page.get_by_text("live", exact=True).wait_for()
    # As it happens.
    other.enters("echo second-$((2 + 2))")
    person.sees("second-4")
    # Back to before, and to now again.
    page.get_by_label("Position", exact=True).focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    wait_for("an earlier screen", lambda: "second-4" not in person.screen)
    page.get_by_role("button", name="Go live").click()
    person.sees("second-4")
    other.enters("exit")
    other.page.get_by_text("The session has ended").wait_for()
    # It has an end now, and whoever it was sees it too, and only that.
    other.goes_to("recordings")
    other.page.get_by_role("link", name="Play reba on").click()
    other.sees("first-2")
    other.sees("second-4")
    assert person.complaints == []
    assert other.complaints == []


def test_a_recording_is_played(person: Person) -> None:
    person.joins("rhea", roles="access,admin")
    made_up.fill(person)
    page = person.page
    person.goes_to("recordings")
    page.get_by_role("link", name="Play alice on").first.click()
    person.sees("line 0 of 40")
    position = page.get_by_label("Position", exact=True)
    play = page.get_by_role("button", name="Play", exact=True)
    # A minute of nothing is skipped, unless it is wanted.
    assert "of 0:44" in position.get_attribute("aria-valuetext")
    page.get_by_label("Skip pauses").uncheck()
    assert "of 1:40" in position.get_attribute("aria-valuetext")
    page.get_by_label("Skip pauses").check()
    # Found by what it showed, and gone to.
    page.get_by_label("What was on the screen").fill("needle")
    page.get_by_role("button", name=re.compile("needle in a haystack")).click()
    person.sees(f"needle in a haystack {made_up.HOSTILE}")
    assert "the last line" not in person.screen
    # Backwards with the keyboard, then on at eight times the speed, to the end.
    position.focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    wait_for("the screen of then", lambda: "line 10 of" in person.screen and "line 30 of" not in person.screen)
    page.get_by_label("Speed").select_option("8")
    play.click()
    person.sees("the last line")
    play.wait_for()
    # From the start again.
    play.click()
    wait_for("the beginning", lambda: "the last line" not in person.screen)
    assert person.complaints == []
