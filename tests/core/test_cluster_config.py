from __future__ import annotations

from pathlib import Path

import pytest

from tinyport.core.cluster_config import KEYS, ClusterConfig, parse_cluster_config
from tinyport.core.errors import ConfigError


def test_what_is_absent_has_its_default() -> None:
    assert parse_cluster_config({}) == ClusterConfig()
    assert parse_cluster_config({"second_factor": "required"}).second_factor == "required"


def test_every_problem_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_cluster_config(
            {"second_factor": True, "password_min_length": "10", "session_recording": "yes", "sesion": 1}
        )
    assert len(refused.value.problems) == 4
    assert "must be one of off, optional, required" in refused.value.problems[0]


@pytest.mark.parametrize("length", [7, 65, True, 8.5])
def test_lengths_of_passwords(length: object) -> None:
    with pytest.raises(ConfigError, match="whole number from 8 to 64"):
        parse_cluster_config({"password_min_length": length})


@pytest.mark.parametrize("addresses", ["a:1", [5], ["no port"], ["a:1"] * 17, ["a:b"]])
def test_addresses_of_proxies(addresses: object) -> None:
    with pytest.raises(ConfigError, match="proxy_addresses"):
        parse_cluster_config({"proxy_addresses": addresses})
    assert parse_cluster_config({"proxy_addresses": ["a.example:443", "[fd00::1]:443"]}).proxy_addresses


@pytest.mark.parametrize("budget", ["49kB", 500_000, "much", ""])
def test_a_budget_leaves_room_for_a_tunnel(budget: object) -> None:
    with pytest.raises(ConfigError, match="node_budget"):
        parse_cluster_config({"node_budget": budget})
    assert parse_cluster_config({"node_budget": "2MB"}).node_budget == "2MB"


def test_the_documentation_has_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
    table = page.partition("## cluster_config")[2].partition("\n## ")[0]
    told = {
        word for line in table.splitlines() if line.startswith("| `") for word in line.split("|")[1].split("`")[1::2]
    }
    assert told == set(KEYS)
