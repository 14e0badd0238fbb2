"""A database of every schema that there ever was comes up to date with all that is in it, and serves."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tinyport.auth.migrations import MIGRATIONS, migrate, statements
from tinyport.auth.store import Database, _connect

from .conftest import AuthServer, Clock, auth_settings

#: Steps that databases out there have made: name → SHA-256 of its statements. A step that is here is never edited; a
#: change is a new step, and a release adds its steps.
FROZEN = {
    "0001-start": "87cc3c27f8ec501c2f799e05ba421cce",
    "0002-second-factors": "c4d1256e533654fb5f19487b2350c0ba",
    "0003-rotations": "76ee7913bec7d872ee802a44dcc4da59",
    "0004-web-sessions": "a9423aeab5e96daa21a4dd0b420e68c5",
    "0005-registrations": "18b6d9474a656e478b325a6f6b7dee10",
    "0006-trusted-clusters": "21a479467e559263061e7d7d0b3c009c",
    "0007-recordings": "987b27e2688a05a26138391e15c41449",
    "0008-online": "c70fa6c077c5a6bd116ac2d9898ebfd8",
}


def digest(script: str) -> str:
    return hashlib.sha256("\n".join(statements(script)).encode()).hexdigest()[:32]


@pytest.mark.parametrize("name", FROZEN)
def test_a_step_that_was_made_is_never_edited(name: str) -> None:
    assert digest(dict(MIGRATIONS)[name]) == FROZEN[name]


def test_steps_have_their_place() -> None:
    assert [name for name, _ in MIGRATIONS][: len(FROZEN)] == list(FROZEN)
    assert [int(name[:4]) for name, _ in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of today with something of everything that the first version knew."""
    folder, clock = tmp_path_factory.mktemp("full"), Clock()
    server = AuthServer(auth_settings(folder, clock), clock)
    try:
        server.role("gardener", allow={"logins": ["pi"], "node_labels": {"*": ["*"]}})
        server.add_user("alice", ["gardener", "admin"], ["pi"])
        server.login("alice")
        server.join("greenhouse", token=server.token(labels={"site": "berlin"}))
        server.token(uses=3)
        for target in ({"user": "mallory"}, {"login": "games"}):
            assert server.local().post("/v1/locks", {"target": target}).status == 200
        server.add_user("bob", ["access"], ["pi"])
        assert server.local().call("DELETE", "/v1/users/bob").status == 200
        server.local().post("/v1/users", {"name": "carol", "roles": ["access"], "logins": ["pi"]})
        config = {"second_factor": "optional"}
        assert server.local().call("PUT", "/v1/resources/cluster_config/cluster", config).status == 200
    finally:
        server.stop()
    return folder / "auth" / "auth.db"


def as_of(steps: int, full: Path, path: Path) -> None:
    """A database as ``steps`` made it, with what ``full`` has of that."""

    async def make() -> None:
        database: Database = await _connect(path, ())
        try:
            await migrate(database, 1.0, MIGRATIONS[:steps])
        finally:
            await database.close()

    asyncio.run(make())
    with sqlite3.connect(path, isolation_level=None) as database:
        database.execute("ATTACH ? AS full", (str(full),))
        for (table,) in database.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
            if table == "migrations" or table.startswith("sqlite_"):
                continue
            columns = ", ".join(str(row[1]) for row in database.execute(f"PRAGMA main.table_info({table})"))
            database.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM full.{table}")
    database.close()


@pytest.mark.parametrize("steps", range(1, len(MIGRATIONS) + 1), ids=[name for name, _ in MIGRATIONS])
def test_it_comes_up_to_date_with_all_that_is_in_it(
    steps: int, full: Path, tmp_path: Path, start: Callable[..., AuthServer]
) -> None:
    folder = tmp_path / "auth"
    folder.mkdir(mode=0o700)
    as_of(steps, full, folder / "auth.db")
    auth = start()
    made = auth.do(auth.service.store.read.database.all("SELECT name FROM migrations"))
    assert [row["name"] for row in made] == [name for name, _ in MIGRATIONS]
    client, answer = auth.login("alice")
    assert answer["roles"] == ["gardener", "admin"]
    (node,) = client.get("/v1/nodes").body["nodes"]
    assert (node["name"], node["labels"]) == ("greenhouse", {"site": "berlin"})
    locks = client.get("/v1/locks").body["locks"]
    assert {str(lock["target"]) for lock in locks} == {"{'user': 'mallory'}", "{'login': 'games'}"}
    assert len(client.get("/v1/tokens").body["tokens"]) >= 1
    assert {user["name"] for user in client.get("/v1/users").body["users"]} == {"alice", "carol"}
    policy = auth.service.issuer.policy
    assert policy.config["second_factor"] == "optional"
    assert "bob" in policy.refuse_before
    assert auth.do(auth.service.store.read.audit.broken_at()) is None
    # What it learns from here on goes on from there.
    auth.join("barn")
    assert {node["name"] for node in client.get("/v1/nodes").body["nodes"]} == {"greenhouse", "barn"}


def test_nothing_else_is_there_than_in_a_new_one(full: Path, tmp_path: Path) -> None:
    """The steps, one after the other, come to the same schema as all of them at once."""

    def schema(path: Path) -> set[str]:
        with sqlite3.connect(path) as database:
            rows = database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        database.close()
        return {" ".join(str(sql).split()) for (sql,) in rows}

    path = tmp_path / "stepwise.db"

    async def make() -> None:
        for steps in range(1, len(MIGRATIONS) + 1):
            database = await _connect(path, ())
            await migrate(database, 1.0, MIGRATIONS[:steps])
            await database.close()

    asyncio.run(make())
    assert schema(path) == schema(full)
