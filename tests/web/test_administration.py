"""What administrators do, by the page, on a real cluster."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.scenarios.cluster import wait_for
from tests.scenarios.device import Device
from tests.web import made_up
from tests.web.person import Person


def test_invite_label_lock_and_read_of_it_in_the_log(person: Person, other: Person) -> None:
    person.joins("adele", roles="access,admin")
    page, cluster = person.page, person.cluster
    # Somebody new, who opens the invitation's address.
    person.goes_to("users")
    page.get_by_role("button", name="Invite somebody").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("newton")
    dialog.get_by_label("Logins").fill(cluster.login_name)
    dialog.get_by_role("button", name="Make an invitation").click()
    page.get_by_role("img", name="QR code of the invitation for newton").wait_for()
    url = dialog.locator("pre").inner_text()
    assert url.startswith(f"{person.base}/invite#")
    other.page.goto(url)
    other.page.get_by_role("heading", name="Welcome, newton").wait_for()
    dialog.get_by_role("button", name="Done").click()
    page.get_by_role("row", name=re.compile("newton")).get_by_text("invited").wait_for()
    # A name that exists is refused in the dialog, which stays.
    page.get_by_role("button", name="Invite somebody").click()
    dialog.get_by_label("Name").fill("newton")
    dialog.get_by_role("button", name="Make an invitation").click()
    dialog.get_by_role("alert").get_by_text("There is a user newton already").wait_for()
    dialog.get_by_role("button", name="Cancel").click()
    # A token, with the line that tctl prints.
    person.goes_to("tokens")
    page.get_by_role("button", name="New token").click()
    dialog.get_by_label("Labels").fill("site=berlin, kind=gateway")
    dialog.get_by_label("Good for").fill("soon")
    dialog.get_by_role("button", name="Make it").click()
    dialog.get_by_role("alert").get_by_text("How long it is good").wait_for()
    dialog.get_by_label("Good for").fill("7d")
    dialog.get_by_role("button", name="Make it").click()
    page.get_by_role("img", name="QR code of the line").wait_for()
    line = dialog.locator("pre").inner_text()
    pin = str(cluster.ready["ca_pin"])
    server = re.escape(str(cluster.ready["proxy"]))
    start = rf"tinyport start --roles=node --server {server} --token - --ca-pin {pin}"
    assert re.fullmatch(rf"printf '%s\\n' \S+\.\S+ \| {start}", line)
    dialog.get_by_role("button", name="Done").click()
    page.get_by_role("table", name="Join tokens").get_by_text("site").wait_for()
    # A label, a role, and a lock, which is removed again.
    person.goes_to("nodes")
    page.get_by_role("button", name=f"Labels of {cluster.node}").click()
    dialog.get_by_label("Labels").fill("site=potsdam")
    dialog.get_by_role("button", name="Save").click()
    page.get_by_role("table", name="Nodes").get_by_text("potsdam").wait_for()
    person.goes_to("roles")
    page.get_by_role("button", name="New role").click()
    dialog.get_by_label("Name").fill("gardeners")
    dialog.get_by_label("Document").fill("{")
    dialog.get_by_role("button", name="Save").click()
    dialog.get_by_role("alert").get_by_text("This is not JSON").wait_for()
    dialog.get_by_label("Document").fill('{"allow": {"logins": ["pi"], "node_labels": {"site": ["potsdam"]}}}')
    dialog.get_by_role("button", name="Save").click()
    page.get_by_role("row", name=re.compile("gardeners")).get_by_text("site=potsdam").wait_for()
    person.goes_to("locks")
    page.get_by_role("button", name="New lock").click()
    dialog.get_by_label("Its name").fill("newton")
    dialog.get_by_label("Why").fill("not yet")
    dialog.get_by_role("button", name="Lock").click()
    page.get_by_role("button", name="Remove the lock on newton").click()
    dialog.get_by_role("button", name="Remove").click()
    page.get_by_role("button", name="Remove the lock on newton").wait_for(state="detached")
    # All of it is in the log, found by its kind, and more comes while one looks.
    person.goes_to("audit")
    log = page.get_by_role("table", name="Audit events")
    for event in ("user.create", "token.create", "node.update", "role.create", "lock.create", "lock.delete"):
        log.get_by_text(event, exact=True).first.wait_for()
    page.get_by_label("User").fill("later")
    page.get_by_text("Nothing fits").wait_for()
    cluster.tctl("users", "add", "later", "--roles", "access", "--logins", "pi")
    log.get_by_text("user.create", exact=True).wait_for()
    assert person.complaints == []


def test_real_devices_that_wait(person: Person, tmp_path: Path) -> None:
    person.joins("willa", roles="access,admin")
    page, cluster = person.page, person.cluster
    devices = []
    for name in ("welcome", "unwelcome"):
        (tmp_path / name).mkdir()
        device = Device(cluster, tmp_path / name, cluster.ready["proxy"], name=name)
        device.token = cluster.tctl_json("tokens", "add", "--pending")["token"]
        devices.append(device)
    try:
        for device in devices:
            device.start()
        person.goes_to("pending")
        for name, word in (("welcome", "Accept"), ("unwelcome", "Reject")):
            row = page.get_by_role("row", name=re.compile(f"^{name} "))
            row.get_by_text("there now").wait_for()
            shown = cluster.tctl_json("nodes", "show", name)["node"]["fingerprint"]
            row.get_by_text(shown).wait_for()
            page.get_by_role("button", name=f"{word} {name}", exact=True).click()
            page.get_by_role("dialog").get_by_role("button", name=word).click()
            page.get_by_role("dialog").wait_for(state="detached")
        page.get_by_text("Nothing waits").wait_for()
        wait_for("it to be let in", lambda: cluster.node_status("welcome") == "online")
        wait_for("it to be turned away", lambda: "removed from the cluster" in devices[1].log())
        assert cluster.node_status("unwelcome") == "absent"
    finally:
        for device in devices:
            device.stop()
        cluster.tctl("nodes", "rm", "welcome")
    assert person.complaints == []


def test_devices_that_wait_and_nodes_of_other_clusters(person: Person) -> None:
    made_up.fill(person)
    asked: list[str] = []
    page = person.page

    def accept(route: Any) -> None:
        asked.append(route.request.url)
        route.fulfill(json={})

    page.route(re.compile("/(accept|reject|split)$"), accept)
    page.route("**/web/api/v1/clusters", lambda route: route.fulfill(json={"clusters": [{"name": "farm.example"}]}))
    there = {"nodes": [{**made_up.NODES[0], "name": "barn"}]}
    page.route("**/web/api/v1/nodes?cluster=farm.example", lambda route: route.fulfill(json=there))
    person.joins("wanda", roles="access,admin")
    person.goes_to("pending")
    page.get_by_role("row", name=re.compile("twin-pi")).get_by_text("copy 3f9a01bc from 203.0.113.9:4242").wait_for()
    new = page.get_by_role("row", name=re.compile("new-pi"))
    for words in (made_up.FINGERPRINT, "serial 10000000abcdef", "serial of pump-7, offline, seen 2 h ago", "there now"):
        new.get_by_text(words).wait_for()
    # All of it once more where it is decided, as text, whatever the device has said.
    page.get_by_role("button", name="Accept odd-pi").click()
    dialog = page.get_by_role("dialog")
    for title, words in (("Host key", made_up.FINGERPRINT), ("Serial number", made_up.HOSTILE + "1" * 200)):
        dialog.locator(f"dt:text-is('{title}') + dd").get_by_text(words, exact=True).wait_for()
    page.keyboard.press("Escape")
    for name, word in (("new-pi", "Reject"), ("clone-pi", "Accept"), ("twin-pi", "Split")):
        page.get_by_role("button", name=f"{word} {name}").click()
        page.get_by_role("dialog").get_by_role("button", name=word).click()
        page.get_by_role("dialog").wait_for(state="detached")
    assert [url.rpartition("/")[2] for url in asked] == ["reject", "accept", "split"]
    person.goes_to("nodes")
    # Copies that leave are told, too, and who is locked is neither online nor to be connected to.
    page.get_by_text("copy 77aa01bc from ?, found 1 d ago, leaving, seen 2 h ago").wait_for()
    stolen = page.get_by_role("row", name=re.compile("stolen-pi"))
    stolen.get_by_text("locked", exact=True).wait_for()
    stolen.get_by_text(f"until it is removed: stolen {made_up.HOSTILE}xxx").wait_for()
    assert stolen.get_by_role("button", name="Connect to").is_disabled()
    page.get_by_role("button", name="Online only").click()
    stolen.wait_for(state="detached")
    page.get_by_label("Cluster").select_option("farm.example")
    sent: list[str] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda text: sent.append(text)))
    page.get_by_role("button", name="Connect to barn").click()
    # The proxy knows no such cluster, and says so.
    page.get_by_text("No cluster farm.example is known here").wait_for()
    wish = json.loads(sent[0])
    assert (wish["type"], wish["node"], wish["cluster"]) == ("open", "barn", "farm.example")
