"""lib/run/worker.py: requests as lines of JSON, answers as lines of JSON, faults as data."""

import base64
import dataclasses
import importlib
import io
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from PIL import Image
from tyro.conf import Positional, Suppress

from experiments import exp_gpt_hemingway as exp
from lib import plot, run, sound
from lib.answers import Call, Document, Note, Picture, Sound, Steps, Table, Text
from lib.faults import DataError, RunError
from lib.run import worker
from lib.run.described import described
from lib.run.fields import from_json

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Say(run.Typed):
    n: run.Count = 2


@dataclass(frozen=True)
class Need(run.Use):
    number: Positional[int]


@dataclass(frozen=True)
class Draw(run.Use):
    pictures: Positional[tuple[int, ...]] = ()
    size: tuple[int, float] = (1, 2.0)
    how: Literal["well", "badly"] = "well"
    out: Path = Path("drawn.png")


def answers(use):
    match use:
        case Say(text="mistake"):
            raise ZeroDivisionError("ours")
        case Say(text=text, n=n):
            yield from [Text(text)] * n
            if text == "bad":
                raise DataError("no such data")
        case Draw(out=out):
            pixels = torch.arange(12, dtype=torch.uint8).view(3, 2, 2)
            yield Picture(pixels, out, "four pixels", scale=3)
            yield Table(("x", "y"), [(1, 2.5), (2, math.nan)], "{} {}")
            yield Note("done")


def served(*requests):
    out = io.StringIO()
    lines = [request if isinstance(request, str) else json.dumps(request) for request in requests]
    worker.serve(Say | Draw | Need, answers, io.BytesIO("".join(f"{line}\n" for line in lines).encode()), out)
    ready, *found = map(json.loads, out.getvalue().splitlines())
    assert ready == {"kind": "ready"}
    return found


def test_text_comes_in_pieces():
    assert served({"id": 1, "text": "a"}, {"id": "two", "verb": "say", "text": "b", "n": 1}) == [
        {"id": 1, "kind": "text", "text": "a"},
        {"id": 1, "kind": "text", "text": "a"},
        {"id": 1, "kind": "end"},
        {"id": "two", "kind": "text", "text": "b"},
        {"id": "two", "kind": "end"},
    ]


@dataclass(frozen=True)
class Chat(run.Typed):
    """Talk on, with the latest finished run."""

    earlier: run.Carried[tuple[str, ...]] = ()
    """What was said."""
    which: run.Example = "0"
    """An example."""
    by: tuple[Annotated[float, run.Range(-1, 1)], Annotated[float, run.Range(-1, 1)]] = (0.0, 0.0)
    """How
    far."""
    at: Annotated[tuple[float, float], run.Plane(-1, 1, -2, 2)] = (0.0, 0.0)
    likely: run.OnPage[bool] = False
    label: run.Named[tuple[str, ...]] = ()
    steps: run.Count | None = None
    out: run.NewFile = Path("x.png")
    plot: run.NewFile | None = None
    hidden: Suppress[bool] = False

    def after(self, said):
        return dataclasses.replace(self, earlier=(*self.earlier, self.text, said))


def test_what_can_be_asked_is_data():
    (verb,) = described(Chat)
    fields = {field.pop("name"): field for field in verb.pop("fields")}
    about = "Talk on, with the latest finished run."
    assert verb == {"verb": "chat", "about": about, "typed": True, "carried": ["earlier"]}
    assert fields.keys() == {"text", "which", "by", "at", "likely", "label", "steps", "plot"}
    assert fields["text"]["positional"] and fields["text"]["kind"] == "text" and fields["text"]["default"] is None
    once = {"help": "", "positional": False, "many": False}
    number = {"kind": "number", "above": False, "below": False}
    assert fields["which"] == once | {"help": "An example.", "kind": "source", "names": (), "default": "0"}
    by = {"help": "How far.", "many": 2, "whole": False, "low": -1, "high": 1, "default": (0.0, 0.0)}
    assert fields["by"] == once | number | by
    assert fields["steps"] == once | number | {"whole": True, "low": 1, "high": None, "default": None}
    assert fields["at"]["plane"] == (-1, 1, -2, 2) and fields["at"]["many"] == 2
    assert fields["label"] == once | {"kind": "text", "named": True, "many": True, "default": ()}
    assert fields["likely"] == once | {"kind": "flag", "shown": True, "default": False}
    assert fields["plot"] == once | {"kind": "drawing", "default": False}


def test_a_worker_tells_what_can_be_asked_and_what_a_conversation_carries_on():
    out = io.StringIO()
    lines = b'{"id": 1, "about": true}\n{"text": "a", "earlier": ["x", "y"]}\n'
    worker.serve(Chat, lambda use: [Text("b"), Text("c")], io.BytesIO(lines), out)
    _, about, end, *_, last = map(json.loads, out.getvalue().splitlines())
    assert about["verbs"] == json.loads(json.dumps(described(Chat))) and about["id"] == 1 and end["kind"] == "end"
    assert last == {"id": None, "kind": "end", "next": {"earlier": ["x", "y", "a", "bc"]}}


def test_all_that_experiments_can_be_asked_is_data_with_help():
    for path in sorted((ROOT / "experiments").glob("exp_*.py")):
        verbs = described(importlib.import_module(f"experiments.{path.stem}").Use)
        json.dumps(verbs)
        assert all(field["help"] for verb in verbs for field in verb["fields"]), path.stem
        assert not {"run", "data_dir"} & {field["name"] for verb in verbs for field in verb["fields"]}


def test_pictures_tables_and_notes_are_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture, *rest = served({"id": 1, "verb": "draw", "pictures": [3, 4]})
    assert (picture["kind"], picture["name"], picture["caption"]) == ("picture", "drawn.png", "four pixels")
    with Image.open(io.BytesIO(base64.b64decode(picture["base64"]))) as image:
        assert image.size == (6, 6) and image.format == "PNG" and image.getpixel((5, 5)) == (3, 7, 11)
    assert rest == [
        {"id": 1, "kind": "table", "columns": ["x", "y"], "rows": [[1, 2.5], [2, None]], "form": "{} {}", "head": ""},
        {"id": 1, "kind": "note", "text": "done"},
        {"id": 1, "kind": "end"},
    ]
    assert not list(tmp_path.iterdir())  # to save is what a command line does


def test_a_sheet_says_how_it_lies_and_steps_are_data():
    sheet = worker.as_data(Picture(plot.tile(torch.zeros(6, 3, 4, 4), 3), Path("x.png"), scale=3, frames=3))
    assert (sheet["frames"], sheet["versions"], sheet["gap"]) == (3, 0, 6)
    with Image.open(io.BytesIO(base64.b64decode(sheet["base64"]))) as image:
        assert image.size == (3 * 3 * 6 + 6, 2 * 3 * 6 + 6)  # what a page cuts into columns
    found = worker.as_data(Steps(("a",), (0.5,), ((("a", 0.5), ("b", 0.25)),), (), ("x", "y"), ((0.75, 0.25),)))
    assert json.loads(json.dumps(found)) == {
        "kind": "steps", "tokens": ["a"], "p": [0.5], "likeliest": [[["a", 0.5], ["b", 0.25]]], "begins": [],
        "read": ["x", "y"], "looked": [[0.75, 0.25]],
    }  # fmt: skip
    broken = worker.as_data(Steps(("a",), (math.nan,), ((("a", math.inf),),)))
    assert (broken["p"], broken["likeliest"]) == ([None], [[["a", None]]])


def test_sounds_and_documents_are_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    samples = torch.linspace(-1, 1, 50)
    heard = worker.as_data(Sound(samples, 8000, Path("out/song.wav"), "four voices"))
    assert base64.b64decode(heard.pop("base64")) == sound.wav(samples, 8000)
    assert heard == {"kind": "sound", "name": "song.wav", "caption": "four voices"}
    written = worker.as_data(Document(b"\xff\x00", Path("song.mid"), None))
    assert written == {"kind": "document", "name": "song.mid", "caption": "", "base64": "/wA="}
    json.dumps([heard, written])
    assert not list(tmp_path.iterdir())


def test_answers_come_back_from_data():
    """What another process sent is what it answered (an assistant asks workers)."""
    table = Table(("x", "p"), [(1, 0.5), ("two", 0.25)], "{} {}", "head")
    for answer in (Text("a"), Note("b"), table, Document(b"\0", Path("x.mid"), "c"), Call("sum", (("of", "2"),))):
        data = json.loads(json.dumps(worker.as_data(answer)))
        if not isinstance(answer, Call):  # a worker calls no tools
            assert worker.from_data(data) == answer
    samples = torch.linspace(-1, 1, 50)
    heard = worker.from_data(worker.as_data(Sound(samples, 8000, Path("out/x.wav"))))
    assert heard.rate == 8000 and torch.allclose(heard.samples, samples, atol=1e-4) and heard.file == Path("x.wav")
    sheet = worker.as_data(Picture(plot.tile(torch.zeros(6, 3, 4, 4), 3), Path("x.png"), scale=3, frames=3))
    seen = worker.from_data(sheet)
    assert isinstance(seen.content, bytes) and worker.as_data(seen) == sheet
    with pytest.raises(RunError, match="no"):
        worker.from_data({"kind": "error", "message": "no"})
    with pytest.raises(ValueError, match="end is no answer"):
        worker.from_data({"kind": "end"})


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("{", "Expecting property name"),
        ("[1]", "a request is a JSON object"),
        ({"id": 1}, "nothing to work on"),
        ({"id": 1, "text": "x", "n": 0}, "--n must be at least 1"),
        ({"id": 1, "text": "x", "n": "3"}, "n: '3' is not int"),
        ({"id": 1, "text": "x", "n": True}, "n: True is not int"),
        ({"id": 1, "text": 3}, "text: 3 is not str"),
        ({"id": 1, "text": "x", "beams": 3}, "no field beams"),
        ({"id": 1, "verb": "sing"}, "no verb 'sing': say, draw, need"),
        ({"id": 1, "verb": ["draw"]}, "no verb ['draw']"),
        ({"id": 1, "verb": "need"}, "the field number is missing"),
        ({"id": 1, "verb": "draw", "how": "so so"}, "how: 'so so'"),
        ({"id": 1, "verb": "draw", "size": [1]}, "size: [1]"),
        ({"id": 1, "verb": "draw", "out": "x.docx"}, "unknown file extension: .docx"),
        ({"id": 1, "text": "bad"}, "no such data"),
        ({"id": 1, "text": "mistake"}, "ours"),
    ],
)
def test_a_bad_request_is_told_and_the_next_one_answered(request_, message):
    *_, fault, text, end = served(request_, {"id": 9, "text": "x", "n": 1})
    assert fault["kind"] == "error" and message in fault["message"]
    assert ("id" in fault) == isinstance(request_, dict)
    assert (text["text"], end) == ("x", {"id": 9, "kind": "end"})


def test_nobody_reads_the_answers():
    """Neither "ready" nor a fault ends with a traceback."""

    class Closed(io.StringIO):
        def write(self, text):
            if "error" in text or not self.open:
                raise BrokenPipeError
            return len(text)

    for open in (False, True):
        out = Closed()
        out.open = open
        worker.serve(Say, answers, [b"{", b"", b"{}"], out)


def test_fields_from_json():
    values = {"pictures": [1, 2], "size": [3, 4], "how": "badly", "out": "a/b.png", "run": None}
    assert from_json(Draw, values) == Draw((1, 2), (3, 4.0), "badly", Path("a/b.png"))


# ---- a worker in a process of its own ----


@pytest.fixture(scope="module")
def finished(story, tmp_path_factory):
    path = tmp_path_factory.mktemp("worker") / "run"
    args = exp.Args(
        data=str(story), run=path, steps=1, vocabulary=300, layers=1, width=16, heads=2, ff=16, length=16, rows=2,
        compile="off", device="cpu", precision="fp32", save_every=1, eval_every=0,
    )  # fmt: skip
    exp.train(args)
    return path


@pytest.fixture
def working():
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments", exp.NAME, "serve"], cwd=ROOT, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        started.append(process)
        assert json.loads(process.stdout.readline()) == {"kind": "ready"}
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def asked(process, **request):
    print(json.dumps(request), file=process.stdin, flush=True)
    found = []
    while not found or found[-1]["kind"] not in ("end", "error"):
        found.append(json.loads(process.stdout.readline()))
    return found


def test_a_worker_answers_is_killed_and_started_again(finished, working):
    process, where = working(), {"run": str(finished)}
    first = asked(process, id=1, text="The", n=5, **where)
    assert len([answer for answer in first if answer["kind"] == "text"]) > 2 and first[-1] == {"id": 1, "kind": "end"}
    assert "".join(answer["text"] for answer in first[:-1]).startswith("The")
    process.stdin.buffer.write(b'{"text": "\xff"}x\n')
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["kind"] == "error"
    [fault] = asked(process, id=2, text="The", run="nowhere")
    assert fault["kind"] == "error" and "nowhere is not a run directory" in fault["message"]
    again = asked(process, id=1, text="The", n=5, **where)
    assert again == first and process.poll() is None

    print(json.dumps({"id": 3, "text": "The", "n": 10**6, **where}), file=process.stdin, flush=True)
    assert json.loads(process.stdout.readline())["kind"] == "text"  # it is in the middle of a long answer
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
    process = working()
    assert asked(process, id=1, text="The", n=5, **where) == first
    process.stdin.close()  # the end of the requests ends it
    assert process.wait(30) == 0
