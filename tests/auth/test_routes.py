"""Who may call what: every route of the table with every kind of caller, over real TLS."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from tinyport.auth.callers import ANYONE, LOCAL, NODE, PROXY, USER
from tinyport.auth.routes import ROUTES
from tinyport.auth.tls_certificates import issue_leaf, make_authority
from tinyport.auth.web import Route
from tinyport.core.identity import Identity
from tinyport.core.roles import RESOURCES

from .conftest import CLUSTER, START, AuthServer, Client, Clock, auth_settings

#: whose good answers are no JSON object
STREAMS = frozenset(("/v1/watch", "/v1/audit/export", "/v1/backup"))


def test_the_page_has_every_rule() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/roles.md").read_text()
    told = dict(re.findall(r"^\| `(\w+)` \| ((?:`\w+` ?)+)\|", page.partition("## Rules")[2], re.MULTILINE))
    rules = {resource: set(re.findall(r"`(\w+)`", verbs)) for resource, verbs in told.items() if resource in RESOURCES}
    asked: dict[str, set[str]] = {resource: set() for resource in RESOURCES}
    for route in ROUTES:
        if route.rule is not None:
            asked[route.rule[0]].update(route.rule[1])
    # Everybody may list their own sessions; whose else's, and who may join, is decided on the way.
    asked["sessions"] |= {"read", "join"}
    assert rules == asked


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthServer]:
    clock = Clock()
    server = AuthServer(auth_settings(tmp_path_factory.mktemp("auth"), clock), clock)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def callers(cluster: AuthServer) -> dict[str, Client]:
    """Everybody that there is. "nothing" is a user with no rule, "admin" one with all, "locked" one who is locked."""
    cluster.role("nothing", allow={"logins": ["pi"]})
    everybody = {
        "anyone": cluster.anyone(),
        "local": cluster.local(),
        "node": cluster.join("greenhouse").client,
        "proxy": cluster.join("gate", "proxy", addresses=["127.0.0.1:1"]).client,
        "nothing": cluster.user("nobody", ["nothing"], [])[0],
        "admin": cluster.user("root", ["admin", "nothing"], [])[0],
        "locked": cluster.user("mallory", ["admin", "nothing"], [])[0],
        "removed": cluster.user("gone", ["admin", "nothing"], [])[0],
    }
    cluster.local().post("/v1/locks", {"target": {"user": "mallory"}, "message": "left the company"})
    cluster.local().call("DELETE", "/v1/users/gone")
    return everybody


def _id(route: Route) -> str:
    return f"{route.method} {route.path}"


def _ask(client: Client, route: Route) -> tuple[int, str]:
    """Call a route with names that do not exist and an empty body: enough to learn whether one is let in."""
    path = route.path.replace("{name}", "no-such-thing").replace("{id}", "no-such-thing")
    body: Any = {} if route.method in ("POST", "PUT", "PATCH") else None
    if path in STREAMS:
        connection = client.connect()
        try:
            connection.request(route.method, path, body=None if body is None else "{}")
            response = connection.getresponse()
            if response.status == 200:
                return 200, ""
            import json

            return response.status, str(json.loads(response.read())["error"]["code"])
        finally:
            connection.close()
    answer = client.call(route.method, path, body)
    return answer.status, answer.code


#: who of ``callers`` is let in by which kind of caller in the table
KIND_OF = {"anyone": ANYONE, "local": LOCAL, "node": NODE, "proxy": PROXY, "admin": USER}


@pytest.mark.parametrize("route", ROUTES, ids=_id)
def test_exactly_the_callers_of_the_table_are_let_in(route: Route, callers: dict[str, Client]) -> None:
    for name, client in callers.items():
        status, code = _ask(client, route)
        kind = KIND_OF.get(name)
        if ANYONE in route.callers or kind in route.callers:
            # In: what is wrong now is the (empty) request, never who asked.
            assert code not in ("login_required", "denied", "locked", "removed"), (name, status, code)
            assert status < 500, (name, status, code)
        elif name in ("anyone", "removed"):
            assert (status, code) == (401, "login_required"), (name, status, code)
        elif name == "locked" and USER in route.callers:
            assert (status, code) == (403, "locked"), (name, status, code)
        elif name == "nothing" and route.rule is None and USER in route.callers:
            assert status == 200 or route.method != "GET", (name, status, code)
            assert code not in ("login_required", "denied", "locked"), (name, status, code)
        else:
            assert (status, code) == (403, "denied"), (name, status, code)


@pytest.mark.parametrize("route", [route for route in ROUTES if route.rule is not None], ids=_id)
def test_each_rule_opens_its_own_routes_and_no_other(route: Route, cluster: AuthServer) -> None:
    assert route.rule is not None
    resource, verbs = route.rule
    others = [verb for verb in ("read", "create", "update", "delete", "sign", "join") if verb not in verbs]
    for number, rules in enumerate(
        (
            [{"resources": [resource], "verbs": others}],
            [{"resources": ["status" if resource != "status" else "cas"], "verbs": ["*"]}],
        )
    ):
        role = f"only-{number}"
        cluster.role(role, allow={"logins": ["pi"], "rules": rules})
        name = f"user-{number}"
        if cluster.local().get(f"/v1/resources/user/{name}").status == 404:
            cluster.add_user(name, [role], [])
        client, _ = cluster.login(name)
        assert _ask(client, route) == (403, "denied")
    cluster.role("only-0", allow={"logins": ["pi"], "rules": [{"resources": [resource], "verbs": list(verbs)}]})
    client, _ = cluster.login("user-0")
    assert _ask(client, route)[1] != "denied"


def test_what_is_not_in_the_table_is_not_there(cluster: AuthServer, callers: dict[str, Client]) -> None:
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/resources/secrets", 404),
        ("DELETE", "/v1/hello", 405),
        ("POST", "/v1/nodes", 405),
    ):
        answer = callers["local"].call(method, path)
        assert (answer.status, "error" in answer.body) == (status, True), (method, path)


def test_kinds_do_not_pass_for_each_other(cluster: AuthServer, callers: dict[str, Client]) -> None:
    """Certificates of the right CA with an identity that was never given to anybody."""
    authority = cluster.service.authority.ring.tls["active"]
    key = ed25519.Ed25519PrivateKey.generate()
    proxy = cluster.local().get("/v1/status").body["proxies"][0]["uuid"]
    node = cluster.local().get("/v1/nodes").body["nodes"][0]["uuid"]
    cases = [
        (Identity("node", CLUSTER, proxy), 403, "removed"),
        (Identity("proxy", CLUSTER, node), 403, "removed"),
        (Identity("proxy", CLUSTER, "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b"), 403, "removed"),
        (Identity("auth", CLUSTER, node), 403, "denied"),
        (Identity("user", CLUSTER, "stranger"), 401, "login_required"),
        (Identity("proxy", "other.example", proxy), 401, "login_required"),
    ]
    for identity, status, code in cases:
        pem = issue_leaf(authority, public_key=key.public_key(), identity=identity, serial=5, now=START, ttl=3600)
        answer = cluster.bearer(pem, key).post("/v1/presence", {})
        assert (answer.status, answer.code) == (status, code), identity


def test_another_cas_certificate_does_not_get_through_tls(cluster: AuthServer, tmp_path: Path) -> None:
    import http.client

    key = ed25519.Ed25519PrivateKey.generate()
    foreign = make_authority(CLUSTER, now=START)
    identity = Identity("user", CLUSTER, "root")
    pem = issue_leaf(foreign, public_key=key.public_key(), identity=identity, serial=5, now=START, ttl=3600)
    with pytest.raises((OSError, http.client.HTTPException)):
        cluster.bearer(pem, key).get("/v1/users")


def test_an_expired_certificate_is_told_so(cluster: AuthServer) -> None:
    cluster.role("nothing", allow={"logins": ["pi"]})
    cluster.add_user("late", ["nothing"], [])
    client, _ = cluster.login("late")
    assert client.get("/v1/nodes").status == 200
    cluster.clock.now += 13 * 3600
    try:
        answer = client.get("/v1/nodes")
    finally:
        cluster.clock.now -= 13 * 3600
    assert (answer.status, answer.code, answer.message) == (401, "expired", "the certificate expired 1h ago")
