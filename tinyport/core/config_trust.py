"""``[[trusted_clusters]]`` of tinyport.toml → trusted clusters, with CA keys read from files."""

from __future__ import annotations

from tinyport.core.config_reader import SettingsReader
from tinyport.core.errors import ConfigError
from tinyport.core.trust import KEYS, MOST_CLUSTERS, TrustedCluster, parse_trusted_cluster


def read_trusted_clusters(reader: SettingsReader, value: object) -> tuple[TrustedCluster, ...]:
    """Every problem is noted in ``reader``."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MOST_CLUSTERS:
        reader.problem("trusted_clusters", None, f"must be a list of tables, at most {MOST_CLUSTERS}")
        return ()
    found: dict[str, TrustedCluster] = {}
    for index, item in enumerate(value):
        place = f"trusted_clusters[{index}]"
        table = dict(reader.section(item, place, KEYS))
        before = len(reader.problems)
        for key in ("user_ca", "host_ca", "ca_pin"):
            if isinstance(table.get(key), dict):
                table[key] = reader.secret(table[key], f"{place}.{key}") or ""
        pins = table.get("ca_pin")
        if isinstance(pins, str):
            # A file may hold several pins, one a line.
            table["ca_pin"] = pins.split()
        if len(reader.problems) > before:
            continue
        try:
            cluster = parse_trusted_cluster(table)
        except ConfigError as error:
            for problem in error.problems:
                reader.problem(place, None, problem)
            continue
        if cluster.name in found:
            reader.problem(f"{place}.name", cluster.name, "is there twice")
        found[cluster.name] = cluster
    return tuple(found.values())
