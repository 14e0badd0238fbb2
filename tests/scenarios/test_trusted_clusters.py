"""Two real clusters: people of one reach a node of the other by OpenSSH and by what tsh tells them, and no further."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.browser import Browser
from tests.scenarios.cluster import BIN, LIMIT, Cluster, text, wait_for
from tinyport.core.certificate import public_line
from tinyport.core.errors import TinyportError
from tinyport.core.names import parse_address
from tinyport.core.signatures import Ed25519Key
from tinyport.host import user_identity
from tinyport.link.api import AuthClient

PARTNER = "partner.example"
HERE = "tinyport.local"
needs_openssh = pytest.mark.needs("ssh")


@pytest.fixture(scope="module")
def partner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster whose people come here."""
    made = Cluster(tmp_path_factory.mktemp("partner"), name=PARTNER)
    try:
        yield made.start()
    finally:
        made.stop()


def create(cluster: Cluster, **document: Any) -> None:
    path = cluster.folder / "resource.json"
    path.write_text(json.dumps(document))
    done = cluster.tctl("create", "-f", path)
    assert done.returncode == 0, text(done)


def keys(cluster: Cluster, type: str) -> str:
    done = cluster.tctl("auth", "export", "--type", type)
    assert done.returncode == 0, text(done)
    return done.stdout.decode()


def trust(here: Cluster, partner: Cluster, **changes: Any) -> None:
    document = {
        "kind": "trusted_cluster",
        "name": PARTNER,
        "user_ca": keys(partner, "user"),
        "role_map": [{"remote": "^(dev)-team$", "local": ["$1-guest"]}],
    }
    create(here, **{**document, **changes})


@pytest.fixture(scope="module")
def dev(cluster: Cluster, partner: Cluster) -> Path:
    """Two clusters that know each other, and a person of the partner with OpenSSH: the configuration's path."""
    everywhere = {"node_labels": {"*": ["*"]}}
    create(cluster, kind="role", name="dev-guest", allow={"logins": [cluster.login_name], **everywhere})
    create(partner, kind="role", name="dev-team", allow={"logins": [partner.login_name], **everywhere})
    trust(cluster, partner)
    create(
        partner,
        kind="trusted_cluster",
        name=HERE,
        host_ca=keys(cluster, "host"),
        public_addr=cluster.ready["proxy"],
    )
    partner.add_user("dev", partner.login_name, "dev-team")
    done = partner.tsh("config", "--cluster", HERE, home="dev")
    assert done.returncode == 0, text(done)
    path = partner.folder / "ssh_config.other"
    path.write_bytes(done.stdout)
    return path


def ssh(config: Path, cluster: Cluster, login: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = ["ssh", "-F", str(config), "-o", "BatchMode=yes", f"{login}@{cluster.node}.{HERE}", *words]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, check=False)


def test_tsh_lists_where_one_may_go(cluster: Cluster, partner: Cluster, dev: Path) -> None:
    listed = json.loads(partner.tsh("clusters", "--format", "json", home="dev").stdout)
    assert [(row["cluster"], row["through"]) for row in listed] == [(PARTNER, None), (HERE, PARTNER)]
    unknown = partner.tsh("config", "--cluster", "nowhere.example", home="dev")
    assert unknown.returncode == 5
    assert b"knows no cluster nowhere.example" in unknown.stderr


@needs_openssh
def test_openssh_reaches_the_other_clusters_node(cluster: Cluster, partner: Cluster, dev: Path) -> None:
    done = ssh(dev, cluster, cluster.login_name, "echo in")
    assert (done.returncode, done.stdout) == (0, b"in\n"), text(done)

    def told() -> bool:
        events = cluster.tctl_json("audit", "--type", "session.start")["events"]
        return any(event["user"] == f"dev@{PARTNER}" for event in events)

    wait_for("the audit log here to name them in full", told)
    # A login of theirs is none here unless a role of ours says so, and the log names them in full then, too.
    assert ssh(dev, cluster, "games", "true").returncode == 255

    def refused() -> bool:
        events = cluster.tctl_json("audit", "--type", "access.denied")["events"]
        return any(event["user"] == f"dev@{PARTNER}" for event in events)

    wait_for("the refusal to be in the audit log here", refused)


def test_tsh_reaches_it_too(cluster: Cluster, partner: Cluster, dev: Path) -> None:
    node = f"{cluster.login_name}@{cluster.node}"
    for target in (node, f"{node}.{HERE}"):
        done = partner.tsh("ssh", "--cluster", HERE, target, "cat; exit 7", home="dev", input=b"x" * 300_000)
        assert (done.returncode, done.stdout) == (7, b"x" * 300_000), done.stderr
    for words, said in (
        (("--cluster", HERE, f"{cluster.login_name}@nowhere"), b"there is no node nowhere"),
        (("--cluster", HERE, f"games@{cluster.node}"), b"login games is not one of yours"),
        (("--cluster", "nowhere.example", node), b"knows no cluster nowhere.example"),
        (("--cluster", HERE, f"{cluster.login_name}@site=berlin"), b"labels find nodes"),
    ):
        done = partner.tsh("ssh", *words, "true", home="dev")
        assert done.returncode == 255, text(done)
        assert said in done.stderr, text(done)
        assert b"Traceback" not in done.stderr


def test_a_role_that_wants_a_code_says_that_none_of_theirs_counts(
    cluster: Cluster, partner: Cluster, dev: Path
) -> None:
    guest = {
        "kind": "role",
        "name": "dev-guest",
        "allow": {"logins": [cluster.login_name], "node_labels": {"*": ["*"]}},
    }
    create(cluster, **guest, options={"require_mfa": True})
    words = ("--cluster", HERE, f"{cluster.login_name}@{cluster.node}", "true")
    said = f"one shown in {PARTNER} does not count here (ask an administrator of {HERE}".encode()
    try:
        refused = wait_for(
            "the role at the other proxy",
            lambda: (done := partner.tsh("ssh", *words, home="dev")) and done.returncode == 255 and done,
        )
        assert said in refused.stderr, text(refused)
        done = partner.tsh("run", "--cluster", HERE, cluster.node, "--", "true", home="dev")
        assert (done.returncode, said in done.stderr) == (255, True), text(done)
    finally:
        create(cluster, **guest)
        wait_for("the role as it was", lambda: partner.tsh("ssh", *words, home="dev").returncode == 0)


def test_another_host_ca_is_not_believed(cluster: Cluster, partner: Cluster, dev: Path) -> None:
    entry = {"kind": "trusted_cluster", "name": HERE, "public_addr": cluster.ready["proxy"]}
    create(partner, **entry, host_ca=public_line(Ed25519Key.generate().public_blob))
    try:
        done = partner.tsh("ssh", "--cluster", HERE, f"{cluster.login_name}@{cluster.node}", "true", home="dev")
    finally:
        create(partner, **entry, host_ca=keys(cluster, "host"))
    assert done.returncode == 255
    assert b"is not signed by a CA of" in done.stderr, text(done)


@needs_openssh
def test_what_is_taken_back_ends_their_sessions(cluster: Cluster, partner: Cluster, dev: Path) -> None:
    for take_back in (
        lambda: cluster.tctl("rm", f"trusted_cluster/{PARTNER}"),
        lambda: trust(cluster, partner, enabled=False),
    ):
        trust(cluster, partner)
        wait_for("them to get in", lambda: ssh(dev, cluster, cluster.login_name, "true").returncode == 0)
        command = ["ssh", "-F", str(dev), f"{cluster.login_name}@{cluster.node}.{HERE}", "echo ready; exec sleep 1000"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            take_back()
            assert process.wait(LIMIT) == 255
        assert ssh(dev, cluster, cluster.login_name, "true").returncode == 255
    trust(cluster, partner)


def test_nothing_crosses_the_other_way_nor_into_the_api(cluster: Cluster, partner: Cluster, dev: Path) -> None:
    (path,) = (partner.folder / "dev").glob("keys/*/identity.json")
    identity = user_identity.load(path)
    client = AuthClient(
        parse_address(cluster.ready["proxy"]),
        tls_cas=[keys(cluster, "tls")],
        cert_pem=identity.tls_certificate,
        key_pem=identity.tls_key,
        cluster=HERE,
    )
    with client, pytest.raises(TinyportError):
        client.request("GET", "/v1/nodes")
    # The partner trusts no user CA of ours.
    known = json.loads(partner.tctl("get", "--format", "json", f"trusted_cluster/{HERE}").stdout)
    assert known["user_ca"] == []


# ------------------------------------------------------------------ through a tunnel that the other cluster dials


@pytest.fixture
def tunnel(cluster: Cluster, partner: Cluster, dev: Path) -> Path:
    """The other cluster's proxy has no address: it dials a tunnel to the partner's. OpenSSH's configuration."""
    create(partner, kind="trusted_cluster", name=HERE, host_ca=keys(cluster, "host"))
    trust(cluster, partner, **way_to(partner))
    wait_for("the tunnel", lambda: standing(partner) is True)
    own = partner.tsh("config", home="dev")
    other = partner.tsh("config", "--cluster", HERE, home="dev")
    path = partner.folder / "ssh_config.tunnel"
    path.write_bytes(other.stdout + own.stdout)
    return path


def way_to(partner: Cluster) -> dict[str, str]:
    return {"server": partner.ready["proxy"], "ca_pin": partner.ready["ca_pin"]}


def standing(partner: Cluster) -> Any:
    """Is the other cluster online, as the partner's people are told?"""
    done = partner.tsh("clusters", "--format", "json", home="dev")
    return {row["cluster"]: row["online"] for row in json.loads(done.stdout)}.get(HERE)


def test_a_shell_through_the_tunnel(cluster: Cluster, partner: Cluster, tunnel: Path) -> None:
    node = f"{cluster.login_name}@{cluster.node}"
    done = partner.tsh("ssh", "--cluster", HERE, node, "cat; exit 7", home="dev", input=b"x" * 300_000)
    assert (done.returncode, done.stdout) == (7, b"x" * 300_000), text(done)
    for words, said in (
        (("--cluster", HERE, f"{cluster.login_name}@nowhere"), b"there is no node nowhere"),
        (("--cluster", HERE, f"games@{cluster.node}"), b"login games is not one of yours"),
    ):
        refused = partner.tsh("ssh", *words, "true", home="dev")
        assert refused.returncode == 255, text(refused)
        assert said in refused.stderr, text(refused)

    def told() -> bool:
        events = cluster.tctl_json("audit", "--type", "session.start")["events"]
        return any(event["user"] == f"dev@{PARTNER}" for event in events)

    wait_for("the audit log here to name them in full", told)
    assert partner.tctl_json("audit", "--type", "trusted_cluster.online")["events"][-1]["cluster_name"] == HERE

    def used() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = partner.tctl_json("audit", "--type", "trusted_cluster.use", "--user", "dev")[
            "events"
        ]
        return found

    assert {event["cluster_name"] for event in wait_for("the audit log at home to say so", used)} == {HERE}


def test_files_through_the_tunnel(cluster: Cluster, partner: Cluster, tunnel: Path) -> None:
    here, back = partner.folder / "letter", partner.folder / "letter.back"
    here.write_bytes(b"dear all\n" * 10_000)
    there = f"{cluster.login_name}@{cluster.node}:{cluster.folder / 'letter.there'}"
    for words in ((here, there), (there, back)):
        done = partner.tsh("scp", "--cluster", HERE, "-q", *words, home="dev")
        assert done.returncode == 0, text(done)
    assert back.read_bytes() == here.read_bytes()
    refused = partner.tsh("scp", "--cluster", HERE, here, f"games@{cluster.node}:x", home="dev")
    assert refused.returncode == 4, text(refused)


def test_both_sides_see_whether_it_stands(cluster: Cluster, partner: Cluster, tunnel: Path) -> None:
    def stands(side: Cluster, key: str) -> bool:
        return any(one[key] is True for one in side.tctl_json("status")["clusters"])

    wait_for("both to know", lambda: stands(cluster, "dialled") and stands(partner, "online"))
    assert f"{PARTNER}: our tunnel to it is up".encode() in cluster.tctl("status").stdout
    assert f"{HERE}: its tunnel to us is up".encode() in partner.tctl("status").stdout


@needs_openssh
def test_openssh_through_the_tunnel(cluster: Cluster, partner: Cluster, tunnel: Path) -> None:
    done = ssh(tunnel, cluster, cluster.login_name, "echo in")
    assert (done.returncode, done.stdout) == (0, b"in\n"), text(done)


def test_a_command_on_many_of_its_nodes(cluster: Cluster, partner: Cluster, tunnel: Path, tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        return partner.tsh("run", "--cluster", HERE, "--login", cluster.login_name, *words, home="dev")

    done = run(cluster.node, "--", "echo $TINYPORT_NODE $TINYPORT_CLUSTER")
    assert (done.returncode, done.stdout) == (0, f"{cluster.node}: {cluster.node} {HERE}\n".encode()), text(done)
    label = f"run={tmp_path.name}"
    assert cluster.tctl("nodes", "label", cluster.node, label).returncode == 0
    try:
        done = run("--output-dir", str(tmp_path / "out"), label, "--", "echo there; exit 3")
        assert (done.returncode, b"failed: status 3" in done.stderr) == (1, True), text(done)
        assert (tmp_path / "out" / f"{cluster.node}.out").read_bytes() == b"there\n"
    finally:
        assert cluster.tctl("nodes", "label", cluster.node, "run=").returncode == 0
    for words, said in (
        (("nowhere", "--", "true"), b"there is no node nowhere"),
        (("run=nowhere", "--", "true"), b"no node matches"),
        (("--parallel", "91", cluster.node, "--", "true"), b"at most 90 in another cluster"),
    ):
        done = run(*words)
        assert done.returncode != 0
        assert said in done.stderr, text(done)


def test_nodes_are_listed_as_their_own_cluster_lets_one_see(cluster: Cluster, partner: Cluster, tunnel: Path) -> None:
    def listed(*words: str) -> list[dict[str, Any]]:
        done = partner.tsh("ls", "--cluster", HERE, *words, "--format", "json", home="dev")
        assert done.returncode == 0, text(done)
        nodes: list[dict[str, Any]] = json.loads(done.stdout)["nodes"]
        return nodes

    # Other scenarios leave nodes in that cluster.
    (node,) = (node for node in listed() if node["name"] == cluster.node)
    assert node["status"] == "online"
    assert not {"addresses", "peer", "version"} & set(node)
    assert listed("--search", "no such thing") == []
    assert listed("site=nowhere") == []
    bad = partner.tsh("ls", "--cluster", HERE, "x" * 500 + "=y", home="dev")
    assert bad.returncode in (1, 2)
    create(cluster, kind="role", name="dev-guest", allow={"logins": ["x"], "node_labels": {"site": ["moon"]}})
    try:
        wait_for("the role to hide it", lambda: listed() == [])
    finally:
        everywhere = {"node_labels": {"*": ["*"]}}
        create(cluster, kind="role", name="dev-guest", allow={"logins": [cluster.login_name], **everywhere})


def test_a_browser_goes_there_too(cluster: Cluster, partner: Cluster, tunnel: Path) -> None:
    async def main() -> None:
        async with Browser(partner) as browser:
            await browser.log_in("dev")
            status, answer = await browser.ask("GET", "/web/api/v1/clusters")
            assert (status, [(one["name"], one["online"]) for one in answer["clusters"]]) == (200, [(HERE, True)])
            status, answer = await browser.ask("GET", f"/web/api/v1/nodes?cluster={HERE}")
            assert status == 200
            assert cluster.node in [node["name"] for node in answer["nodes"]]
            status, answer = await browser.ask("GET", f"/web/api/v1/nodes?cluster={HERE}&selector=site=nowhere")
            assert (status, answer["nodes"]) == (200, [])
            for wrong in ("nowhere.example", "..", "x" * 300):
                status, answer = await browser.ask("GET", f"/web/api/v1/nodes?cluster={wrong}")
                assert (status, answer["error"]["code"]) == (404, "not_found")
            wish = {"type": "open", "node": cluster.node, "login": cluster.login_name, "cols": 80, "rows": 24}
            screen = await browser.terminal({**wish, "cluster": HERE})
            await screen.attached()
            await screen.type("echo $((6 * 7))-there; exit 3\r")
            await screen.until(b"42-there")
            assert await screen.end() == {"type": "exit", "status": 3}
            for change, said in (
                ({"cluster": "nowhere.example"}, "no cluster nowhere.example is known"),
                ({"cluster": 5}, "a name is needed"),
                ({"node": "nowhere"}, "there is no node nowhere"),
                ({"node": "site=berlin"}, "labels find nodes"),
                ({"login": "games"}, "games is not one of yours"),
            ):
                refused = await browser.terminal({**wish, "cluster": HERE, **change})
                message = await refused.socket.receive_json()
                assert (message["type"], said in message["message"]) == ("error", True), message
            # What the other side takes back ends a terminal that is open.
            screen = await browser.terminal({**wish, "cluster": HERE})
            await screen.attached()
            await screen.type("echo ready\r")
            await screen.until(b"ready")
            await asyncio.to_thread(cluster.tctl, "rm", f"trusted_cluster/{PARTNER}")
            assert "message" in await screen.end()

    asyncio.run(asyncio.wait_for(main(), 2 * LIMIT))


def test_the_wrong_pin_and_a_disabled_entry_dial_nothing(cluster: Cluster, partner: Cluster, tunnel: Path) -> None:
    for changes in ({"ca_pin": "sha256:" + "0" * 64}, {"enabled": False}):
        trust(cluster, partner, **{**way_to(partner), **changes})
        wait_for("the tunnel to go", lambda: standing(partner) is False)
        done = partner.tsh("ssh", "--cluster", HERE, f"{cluster.login_name}@{cluster.node}", "true", home="dev")
        assert done.returncode == 255
        assert b"is offline" in done.stderr, text(done)
        trust(cluster, partner, **way_to(partner))
        wait_for("the tunnel", lambda: standing(partner) is True)


def test_a_proxy_with_two_addresses_has_one_tunnel(cluster: Cluster, partner: Cluster, tunnel: Path) -> None:
    way = way_to(partner)
    servers = [way["server"], way["server"].replace("127.0.0.1", "localhost")]
    trust(cluster, partner, server=servers, ca_pin=way["ca_pin"])
    wait_for("the tunnel", lambda: standing(partner) is True)
    done = partner.tsh("ssh", "--cluster", HERE, f"{cluster.login_name}@{cluster.node}", "echo in", home="dev")
    assert done.stdout == b"in\n", text(done)


@needs_openssh
def test_either_side_cuts_at_once(cluster: Cluster, partner: Cluster, tunnel: Path) -> None:
    entry = {"kind": "trusted_cluster", "name": HERE, "host_ca": keys(cluster, "host")}
    ways: list[tuple[Callable[[], object], Callable[[], object]]] = [
        (lambda: partner.tctl("rm", f"trusted_cluster/{HERE}"), lambda: create(partner, **entry)),
        (lambda: create(partner, **entry, enabled=False), lambda: create(partner, **entry)),
        (lambda: cluster.tctl("rm", f"trusted_cluster/{PARTNER}"), lambda: trust(cluster, partner, **way_to(partner))),
    ]
    for take_back, give_again in ways:
        target = (f"{cluster.login_name}@{cluster.node}", "echo ready; exec sleep 1000")
        command = [str(BIN / "tsh"), "ssh", "--cluster", HERE, *target]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=partner.env("dev")
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            take_back()
            assert process.wait(LIMIT) == 255
        wait_for("the tunnel to be gone", lambda: standing(partner) is not True)
        give_again()
        wait_for("the tunnel to come back", lambda: standing(partner) is True)
