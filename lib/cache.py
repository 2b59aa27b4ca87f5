"""Where what was fetched, made or compiled once is kept."""

import os
from pathlib import Path

from lib.faults import DataError


def cache_dir() -> Path:
    """$PUREGEN_CACHE, or puregen in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PUREGEN_CACHE") or Path(base) / "puregen")


def keep(path: Path, content: bytes) -> Path:
    """The path of a file of the cache, written now, as a whole or not at all. Raises DataError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot keep {path}: {error} (PUREGEN_CACHE names another folder)") from error
    return path
