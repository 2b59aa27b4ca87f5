"""Requests to other hosts: no redirect is followed, a key goes to its own host alone
and stands in no message, and neither time nor size is without bounds."""

import http.client
import json
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from lib.faults import RunError

AGENT = "Puregen/0.1 (an assistant for research on a laptop; Python urllib)"
SECONDS, WAIT = 60.0, 15.0  # of a whole answer; without a byte
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LARGEST = 4 * 2**20  # bytes of an answer

Clock = Callable[[], float]  # seconds that are left


def deadline(seconds: float = SECONDS) -> Clock:
    end = time.monotonic() + seconds
    return lambda: end - time.monotonic()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def host(url: str, *secrets: str) -> str:
    """The host that an address names. Raises RunError for one that is no address, or not safe from readers."""
    try:
        place = urllib.parse.urlsplit(url)
        name = place.hostname or ""
    except ValueError:
        name = ""
    if not name or place.scheme not in ("https", "http"):
        raise RunError(f"{_clean(url, *secrets)[:80]!r} is no address of a host: it begins with https://")
    if place.scheme == "http" and name not in LOOPBACK:
        raise RunError(f"{name} is asked by https:// only: what is sent there could be read on the way")
    return name


def lines(
    url: str, left: Clock, body: Any = None, key: str = "", secret: str = "", largest: int = LARGEST
) -> Iterator[bytes]:
    """The lines of what a host answers without their ends, as they come. `body`: JSON to POST; `key`: sent in the
    header; `secret`: what else must not stand in a message. Raises RunError, at the latest when no time is left."""
    name, over = host(url, key, secret), threading.Event()
    if not (key + secret).isascii() or not (key + secret).isprintable():
        raise RunError("the key has signs in it that no key has: copy it again")
    headers = {"User-Agent": AGENT, "Accept": "*/*"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers | ({"Content-Type": "application/json"} if data else {}))
    found: queue.Queue[bytes | Exception | None] = queue.Queue()

    def work() -> None:  # in a thread, for a host that drips its headers is not bounded by the socket's patience
        try:
            proxies = [urllib.request.ProxyHandler({})] if name in LOOPBACK else []
            opener = urllib.request.build_opener(_NoRedirect, *proxies)
            with opener.open(request, timeout=min(WAIT, max(1.0, left()))) as response:
                for line in _read(response, over, name, largest):
                    found.put(line)
            found.put(None)
        except Exception as error:
            found.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            line = found.get(timeout=max(0.001, left()))
            if line is None:
                return
            if isinstance(line, Exception):
                raise line
            yield line
    except queue.Empty:
        raise RunError(f"{name} took more than {SECONDS:g} seconds") from None
    except urllib.error.HTTPError as error:
        raise RunError(_clean(f"{name}: {_said(error)}", key, secret)) from None  # the cause has the address in it
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error) or type(error).__name__
        raise RunError(_clean(f"no answer from {name}: {reason}", key, secret)) from None
    finally:
        over.set()


def _read(response: http.client.HTTPResponse, over: threading.Event, name: str, largest: int) -> Iterator[bytes]:
    parts, size = list[bytes](), 0  # of a line that goes on
    while not over.is_set() and (part := response.read1(65536)):
        size += len(part)
        if size > largest:
            raise RunError(f"{name} sent more than {largest:,} bytes: they are left")
        first, *others = part.split(b"\n")
        parts.append(first)
        for line in others:
            yield b"".join(parts)
            parts = [line]
    yield b"".join(parts)


def _said(error: urllib.error.HTTPError) -> str:
    code = error.code
    if 300 <= code < 400:
        return "it sends on to another address, which is not followed"
    if code in (401, 403):
        return f"it refuses the key ({code})"
    if code == 429:
        after = error.headers.get("Retry-After", "")
        return "too many requests" + (f": ask again in {after} seconds" if after.isdigit() else ": ask again later")
    return f"it failed ({code})" if code >= 500 else f"it refuses the request ({code})"


def _clean(text: str, *secrets: str) -> str:
    for secret in filter(None, secrets):
        for form in (secret, urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret)):
            text = text.replace(form, "***")
    return text


def text(url: str, left: Clock, **more: Any) -> str:
    """The whole answer. Raises RunError, also for what is not UTF-8."""
    content = b"\n".join(lines(url, left, **more))
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise RunError(f"{host(url)} sent what is not UTF-8") from error


def parsed(url: str, left: Clock, **more: Any) -> dict[str, Any]:
    """The answer's JSON object. Raises RunError."""
    try:
        found = json.loads(text(url, left, **more))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{host(url)} sent no JSON: {error}") from error
    if not isinstance(found, dict):
        raise RunError(f"{host(url)} sent JSON that is no object")
    return found


def query(base: str, **values: str | int) -> str:
    return f"{base}?{urllib.parse.urlencode(values)}"
