"""Which version of tinyport this is: the one place, which packaging reads too."""

from __future__ import annotations

VERSION = "0.1.0"
