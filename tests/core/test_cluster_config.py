from __future__ import annotations

import pytest

from tinyport.core.cluster_config import ClusterConfig, parse_cluster_config
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
