"""Finding and reading tinyport.toml."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyport.core.config import Config, General, parse_config
from tinyport.core.config_lines import with_lines
from tinyport.core.errors import ConfigError, OperatorError
from tinyport.host.files import read_limited

DEFAULT = Path("/etc/tinyport/tinyport.toml")
#: what OpenWrt's init script makes of /etc/config/tinyport
OF_UCI = Path("/var/run/tinyport/tinyport.toml")
MAX_FILE = 1024 * 1024
MAX_SECRET = 64 * 1024


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """TOML → a mapping. ConfigError with the place when it is not TOML."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"{source}: {error}"]) from None


def chosen_path(given: str | None) -> Path | None:
    """The configuration file: ``-c``, else TINYPORT_CONFIG, else the default one if it is there. None: no file."""
    named = given or os.environ.get("TINYPORT_CONFIG")
    if named:
        return Path(named)
    return DEFAULT if DEFAULT.exists() else None


def running_path(given: str | None) -> Path | None:
    """The file that a node on this machine runs by: ``chosen_path``, or where there is none what UCI says."""
    chosen = chosen_path(given)
    return OF_UCI if chosen is None and OF_UCI.exists() else chosen


def read_document(path: Path) -> dict[str, Any]:
    """The file as a mapping. OperatorError when it cannot be read, ConfigError when it is not TOML."""
    try:
        data = read_limited(path, MAX_FILE)
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: is not UTF-8"]) from None
    return parse_toml(text, str(path))


def data_dir(path: Path | None) -> str:
    """The folder that a configuration file names, whatever else is wrong with the file: tctl needs no more, and may not
    be allowed to read the secrets that the rest asks for.
    """
    document = {} if path is None else read_document(path)
    general = document.get("tinyport")
    named = general.get("data_dir") if isinstance(general, dict) else None
    return named if isinstance(named, str) and named else General.data_dir


def read_secret(path: str) -> str:
    """What ``{ path = "..." }`` means."""
    return read_limited(path, MAX_SECRET).decode("utf-8", "replace")


def check(document: Mapping[str, object], source: str) -> Config:
    """A mapping as a checked configuration; ConfigError with every problem, and the line of it when ``source`` is the
    file that it was read from.
    """
    try:
        return parse_config(document, source, read_secret)
    except ConfigError as error:
        try:
            text = read_limited(Path(source), MAX_FILE).decode("utf-8", "replace")
        except OSError:
            raise error from None
        raise ConfigError(with_lines(error.problems, source, text)) from None


def load(path: Path | None) -> Config:
    """The configuration in a file, or the defaults when there is none."""
    if path is None:
        return check({}, "defaults")
    return check(read_document(path), str(path))
