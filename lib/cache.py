"""Where what was fetched, made or compiled once is kept."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """$PUREGEN_CACHE, or puregen in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PUREGEN_CACHE") or Path(base) / "puregen")
