"""The routes of the page, and who may use them: the page itself, from this machine, with the token of this start.

    GET  /, and its .js and .css     the page
    GET  /api/runs                  experiments with their finished runs and results
    GET  /api/verbs/EXPERIMENT      what can be asked of them (lib/run/described.py), as lines of JSON
    POST /api/ask/EXPERIMENT        a request: answers as lines of JSON (lib/run/worker.py)
    POST /api/upload?name=x.png     a file that a request may name by the word that is answered
    POST /api/stop                  end all models' processes, and so what is worked on

A request names its run by the name of its folder under runs/, and files by what upload answered: no path comes from the
page. One request is worked on at a time; who comes meanwhile is told.
"""

import itertools
import json
import math
import re
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Request, Response

from lib import catalogue, runs
from lib.workers import Pool

PAGE = Path(__file__).parent
FILES = {
    "/": ("play.html", "text/html"),
    "/play.js": ("play.js", "text/javascript"),
    "/answers.js": ("answers.js", "text/javascript"),
    "/play.css": ("play.css", "text/css"),
}
UPLOAD, REQUEST, KEPT = 10 * 2**20, 2**20, 50  # bytes of an upload and of a request; uploads that are kept
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; media-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
}  # fmt: skip


class Refused(Exception):  # noqa: N818 (it never leaves this file)
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Page:
    """A WSGI application. `experiments`: their folder; `port`: as requests name it; `token`: the page alone has it."""

    def __init__(self, experiments: Path, port: int, token: str, pool: Pool | None = None) -> None:
        self.about = catalogue.sentences(experiments)
        self.hosts = {name + (f":{port}" if port != 80 else "") for name in ("127.0.0.1", "localhost")}
        self.token, self.pool, self.busy = token, pool or Pool(), threading.Lock()
        self.verbs: dict[str, list[dict[str, Any]]] = {}
        self.uploads, self.numbers = dict[str, Path](), itertools.count()
        self.folder = tempfile.TemporaryDirectory(prefix="puregen-play-")

    def close(self) -> None:
        self.pool.stop()
        self.folder.cleanup()

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        try:
            response = self.respond(request)
        except Refused as refused:
            response = _json({"error": str(refused)}, refused.status)
        except HTTPException as error:
            response = _json({"error": error.description}, error.code or 400)
        except Exception as error:  # told to the page, which goes on
            traceback.print_exc()
            response = _json({"error": f"the server failed: {error or type(error).__name__}"}, 500)
        response.headers.update(HEADERS)
        return response(environ, start_response)

    def respond(self, request: Request) -> Response:
        if request.host not in self.hosts or request.headers.get("Sec-Fetch-Site", "none") not in (
            "none",
            "same-origin",
        ):
            raise Refused(403, "this page is for this machine alone")
        _, first, *rest = request.path.split("/")
        if first != "api":
            return _file(request)
        if request.headers.get("X-Token") != self.token:
            raise Refused(403, "the page belongs to another start: open the address that `just play` printed")
        routes: dict[tuple[str, str], Callable[..., Response]] = {
            ("GET", "runs"): self.listed, ("GET", "verbs"): self.described, ("POST", "ask"): self.asked,
            ("POST", "upload"): self.uploaded, ("POST", "stop"): self.stopped,
        }  # fmt: skip
        route = routes.get((request.method, rest[0] if rest else ""))
        if route is None:
            raise Refused(404, f"no {request.method} {request.path}")
        return route(request, *rest[1:2])

    def listed(self, request: Request) -> Response:
        found = [{"name": name, "about": about, "runs": list(_finished(name))} for name, about in self.about.items()]
        return _json(found)

    def described(self, request: Request, experiment: str = "") -> Response:
        if experiment not in self.about:
            raise Refused(404, f"no experiment {experiment!r}")
        if experiment in self.verbs:
            return _json({"kind": "about", "verbs": self.verbs[experiment]})

        def answers() -> Iterator[dict[str, Any]]:
            for answer in self.pool.get(experiment).ask({"about": True}):
                if answer["kind"] == "about":
                    self.verbs[experiment] = answer["verbs"]
                if answer["kind"] != "end":
                    yield answer

        return self.streamed(answers, patience=60.0)  # while another one is started

    def asked(self, request: Request, experiment: str = "") -> Response:
        if experiment not in self.verbs:
            raise Refused(409, f"ask for the verbs of {experiment!r} first")
        wanted = _body(request)
        name = wanted.pop("run", None)
        if not isinstance(name, str) or name not in {one["name"] for one in _finished(experiment)}:
            raise Refused(404, f"{experiment} has no finished run {name!r}: it may have been deleted")
        passed = self.translated(experiment, wanted) | {"run": str((runs.folder() / experiment / name).resolve())}
        return self.streamed(lambda: self.pool.get(experiment).ask(passed))

    def translated(self, experiment: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """The fields of a request as the worker takes them, with the paths of uploads. Raises Refused for what the verb
        does not have."""
        verb = wanted.pop("verb", None)
        known = next((one for one in self.verbs[experiment] if one["verb"] == verb), None)
        if known is None:
            raise Refused(400, f"{experiment} has no verb {verb!r}")
        fields, found = {field["name"]: field for field in known["fields"]}, {"verb": verb}
        for name, value in wanted.items():
            if name in fields:
                found |= self.field(fields[name], value)
            elif name in known["carried"]:
                found[name] = value
            else:
                raise Refused(400, f"{verb} has no field {name!r}")
        return found

    def field(self, field: dict[str, Any], value: Any) -> dict[str, Any]:
        name = field["name"]
        if field["kind"] == "drawing":
            return {name: f"{name}.png"} if value is True else {}
        if field["kind"] in ("source", "file") and value is not None:
            words = value if isinstance(value, list) else [value]
            paths = [self.path(word, field) for word in words]
            return {name: paths if isinstance(value, list) else paths[0]}
        return {name: value}

    def path(self, word: Any, field: dict[str, Any]) -> str:
        """What a page may say where a file is meant: a number, a name, or what `upload` answered."""
        if isinstance(word, str) and word in self.uploads:
            return str(self.uploads[word])
        if field["kind"] == "source" and isinstance(word, str):
            number = re.fullmatch("[0-9]{1,9}", word) and not Path(word).exists()  # nor a file of that name
            if number or word in field["names"]:
                return word
        raise Refused(400, f"{field['name']}: {word!r} is neither a number nor a file that was given here")

    def uploaded(self, request: Request) -> Response:
        request.max_content_length = UPLOAD  # of one that does not say how long it is
        content = request.get_data() if (request.content_length or 0) <= UPLOAD else b""
        if not content:
            raise Refused(413 if request.content_length else 400, f"a file has 1 to {UPLOAD // 2**20} million bytes")
        ending = re.search(r"\.[A-Za-z0-9]{1,8}$", request.args.get("name", ""))
        number = next(self.numbers)
        word = f"upload-{number}"
        self.uploads[word] = Path(self.folder.name) / (word + (ending.group().lower() if ending else ""))
        self.uploads[word].write_bytes(content)
        if number >= KEPT:
            self.uploads[f"upload-{number - KEPT}"].unlink(missing_ok=True)
        return _json({"file": word})

    def stopped(self, request: Request) -> Response:
        self.pool.stop()
        return _json({})

    def streamed(self, answers: Callable[[], Iterator[dict[str, Any]]], patience: float = 0.0) -> Response:
        """Lines of JSON as they come. Raises Refused where something else is worked on, for more than `patience`
        seconds."""
        if not self.busy.acquire(timeout=patience):
            raise Refused(409, "busy with another request, perhaps of another tab: wait for its end, or stop it")
        held = [self.busy]

        def free() -> None:
            if held:
                held.pop().release()

        def lines() -> Iterator[bytes]:
            try:
                for answer in answers():
                    if answer["kind"] in ("end", "error"):
                        free()  # who has the last line may ask again
                    yield json.dumps(answer).encode() + b"\n"
            except OSError as error:
                yield json.dumps({"kind": "error", "message": f"no process can be started: {error}"}).encode() + b"\n"
            finally:
                free()

        response = Response(lines(), mimetype="application/x-ndjson")
        response.call_on_close(free)  # where nobody waited for the first line
        return response


def _finished(experiment: str) -> Iterator[dict[str, Any]]:
    """The newest first, with the numbers of its result."""
    for path in reversed(runs.of(experiment, finished=True)):
        try:
            stored = dict(json.loads((path / "result.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # deleted meanwhile, or no result
            continue
        numbers = {k: x for k, x in stored.items() if isinstance(x, int | float) and math.isfinite(x)}
        yield {"name": path.name, "result": numbers, "words": runs.words(path)}


def _body(request: Request) -> dict[str, Any]:
    if (request.content_length or 0) > REQUEST:
        raise Refused(413, f"a request has up to {REQUEST // 2**20} million bytes")
    try:
        found = json.loads(request.get_data(), parse_constant=lambda word: _not_a_number(word))
    except ValueError as error:
        raise Refused(400, f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise Refused(400, "a request is a JSON object")
    return found


def _not_a_number(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _file(request: Request) -> Response:
    name, kind = FILES.get(request.path, ("", ""))
    if not name or request.method != "GET":
        raise Refused(404, f"no {request.method} {request.path}")
    return Response((PAGE / name).read_bytes(), mimetype=kind)


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content), status, mimetype="application/json")
