"""lib/play: what a page may ask, what is refused, processes that answer, and the page in a browser if there is one."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from werkzeug.test import Client

from lib import runs, workers
from lib.play import server
from lib.play.server import Page
from lib.workers import Pool, Worker
from tests.bench import play

NUMBER = {"many": False, "kind": "number", "whole": True, "low": 1, "high": None, "above": False, "below": False}
VERBS = [
    {
        "verb": "draw", "about": "Draw it.", "typed": False, "carried": ["earlier"],
        "fields": [
            {"name": "n", "help": "How many.", "positional": False, "default": 2} | NUMBER,
            {"name": "pictures", "help": "Which.", "positional": True, "default": ["0"], "many": True, "kind": "source",
             "names": ["all"]},
            {"name": "mask", "help": "A file.", "positional": False, "default": None, "many": False, "kind": "file"},
            {"name": "out", "help": "Draw.", "positional": False, "default": False, "many": False, "kind": "drawing"},
            {"name": "label", "help": "Names.", "positional": False, "default": [], "many": True, "kind": "text",
             "named": True},
            {"name": "point", "help": "Where.", "positional": False, "default": None, "kind": "number", "whole": False,
             "low": None, "high": None, "above": False, "below": False, "many": 2, "plane": [-4, 4, -4, 4]},
            {"name": "by", "help": "How far.", "positional": False, "default": [0.0, 0.0], "kind": "number",
             "whole": False, "low": -6, "high": 6, "above": False, "below": False, "many": 2},
        ],
    },
    {
        "verb": "write", "about": "Write on.", "typed": True, "carried": [],
        "fields": [
            {"name": "text", "help": "What.", "positional": True, "default": None, "many": False, "kind": "text"}
        ],
    },
]  # fmt: skip
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TOY = f"""
import json, sys, time
print(json.dumps({{"kind": "ready"}}), flush=True)
say = lambda **x: print(json.dumps(x), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("about"):
        say(kind="about", verbs={VERBS!r})
    elif asked.get("verb") == "write":
        say(kind="text", text=asked["text"] + "é!\\n")
        n = len(asked["text"])
        say(kind="steps", tokens=["\ufffd", "\ufffd", "!"], p=[0.5, 1.0, None], begins=[n, n, n + 1],
            read=[], looked=[], likeliest=[[[" ok", 0.5], ["\ufffd", 0.25]], [["\ufffd", 1.0]], [["?", None]]])
    elif asked.get("n") == 13:
        sys.exit(3)
    elif asked.get("n") == 14:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)  # as a machine without memory does
    elif asked.get("n") == 15:
        print('{{"kind": "te', end="", flush=True)
        time.sleep(60)
    elif asked.get("n") == 99:
        say(kind="text", text="<b>slow</b>")
        time.sleep(60)
    else:
        say(kind="text", text=json.dumps(asked))
        say(kind="call", tool="<i>sum", arguments=[["of", "1 <2>"]])
        say(kind="table", columns=["value", "probability"], rows=[["<script>alert(1)</script>", 0.5]])
        say(kind="picture", name="x.png", caption="a pixel", base64="{PIXEL}")
        say(kind="picture", name="w.png", caption="a way", base64="{PIXEL}", frames=3, versions=0, gap=0)
        say(kind="steps", tokens=["a", " <b>"], p=[0.5, 0.001], likeliest=[[["a", 0.5], ["x", 0.25]], [["y", 0.75]]],
            begins=[], read=["r", "s"], looked=[[0.75, 0.25], [0.0, 1.0]])
        say(kind="note", text="done")
    say(kind="end", **({{}} if asked.get("verb") == "write" else {{"next": {{"earlier": ["a", "b"]}}}}))
"""


def toy(_):
    return [sys.executable, "-c", TOY]


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "exp_toy.py").write_text('"""A toy (Toy 1950) that draws. More."""')
    (tmp_path / "experiments" / "exp_new.py").write_text('"""Nothing yet."""')
    for i, name in enumerate(("old", "new", "unfinished")):
        path = tmp_path / "runs" / "exp_toy" / name
        path.mkdir(parents=True)
        (path / "config.json").write_text("{}")
        os.utime(path / "config.json", (i, i))
        if name != "unfinished":
            (path / "labels.json").write_text('{"hair": ["blond", "grey"], "skin": ["pale", "grey"]}')
            (path / "result.json").write_text(json.dumps({"test/loss": 0.5, "bad": float("nan"), "name": "x"}))
    made = Page(tmp_path / "experiments", 7860, "secret", Pool(toy))
    yield made
    made.close()


@pytest.fixture
def call(page):
    """A request of the page: (status, answers)."""
    client = Client(page)

    def ask(method, path, status=200, **options):
        headers = {"Host": "127.0.0.1:7860", "X-Token": "secret"} | options.pop("headers", {})
        response = client.open(path, method=method, headers=headers, buffered=True, **options)
        assert response.status_code == status, response.text
        found = [json.loads(line) for line in response.text.splitlines()] if path.startswith("/api") else response.text
        return found[0] if isinstance(found, list) and len(found) == 1 else found

    return ask


@pytest.fixture
def ask(call):
    """What the toy was asked, of a request with these fields."""
    call("GET", "/api/verbs/exp_toy")

    def make(status=200, **fields):
        found = call("POST", "/api/ask/exp_toy", status, json={"verb": "draw", "run": "new"} | fields)
        return json.loads(found[0]["text"]) if status == 200 else found["error"]

    return make


def test_the_page_and_what_it_may_do(call, page):
    assert "play.js" in call("GET", "/")
    response = Client(page).get("/play.js", headers={"Host": "localhost:7860"})
    assert response.mimetype == "text/javascript" and response.headers["X-Content-Type-Options"] == "nosniff"
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy


def test_runs_are_listed_the_newest_first_with_numbers(call):
    new, old = call("GET", "/api/runs")[0]["runs"], call("GET", "/api/runs")[0]
    assert (old["name"], new) == ("exp_new", [])
    found = call("GET", "/api/runs")[1]
    assert found["about"] == "A toy that draws"
    assert [run["name"] for run in found["runs"]] == ["new", "old"]
    assert found["runs"][0]["result"] == {"test/loss": 0.5}
    assert found["runs"][0]["words"] == ["blond", "hair=grey", "pale", "skin=grey"]


@pytest.mark.parametrize(
    "kept", ['{"a": 3}', '{"hair": "blond"}', "null", "5", '["a", 3]', '{"a": null}', "{", '{"a": [["b"]]}']
)
def test_names_of_another_kind_are_no_words(call, tmp_path, kept):
    (tmp_path / "runs/exp_toy/new/labels.json").write_text(kept)
    new, old = call("GET", "/api/runs")[1]["runs"]
    assert new["words"] == [] and old["words"][0] == "blond"


def test_names_may_be_a_list_or_of_domains(call, tmp_path):
    (tmp_path / "runs/exp_toy/new/labels.json").write_text('["cat", "dog"]')
    (tmp_path / "runs/exp_toy/old/labels.json").unlink()
    (tmp_path / "runs/exp_toy/old/domains.json").write_text('["black", "blond"]')
    new, old = call("GET", "/api/runs")[1]["runs"]
    assert (new["words"], old["words"]) == (["cat", "dog"], ["black", "blond"])


def test_a_request_is_answered_line_by_line(call, ask, tmp_path):
    assert call("GET", "/api/verbs/exp_toy") == {"kind": "about", "verbs": VERBS}
    found = ask(n=3, pictures=["4", "all"], out=True, earlier=["x", "y"])
    path = str(tmp_path / "runs" / "exp_toy" / "new")
    assert found == {
        "verb": "draw", "n": 3, "pictures": ["4", "all"], "out": "out.png", "earlier": ["x", "y"], "run": path,
    }  # fmt: skip
    assert "out" not in ask(out=False)


def test_files_come_by_upload(call, ask):
    word = call("POST", "/api/upload?name=my%20face.PNG", data=b"pixels")["file"]
    found = ask(pictures=["1", word], mask=word)
    assert found["pictures"][1] == found["mask"] and found["mask"].endswith(".png")
    with open(found["mask"], "rb") as file:
        assert file.read() == b"pixels"
    odd = call("POST", "/api/upload?name=../../x.sh%00;rm", data=b"x")["file"]
    assert os.path.basename(ask(mask=odd)["mask"]) == odd


def test_many_uploads_keep_the_newest(call, ask, monkeypatch):
    monkeypatch.setattr(server, "KEPT", 2)
    words = [call("POST", "/api/upload", data=b"x")["file"] for _ in range(4)]
    assert [os.path.exists(ask(mask=word)["mask"]) for word in words] == [False, False, True, True]


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"pictures": ["/etc/passwd"]}, 400, "neither a number nor a file that was given here"),
        ({"pictures": ["../x.png"]}, 400, "neither"),
        ({"pictures": [["1"]]}, 400, "neither"),
        ({"mask": "0"}, 400, "neither"),
        ({"mask": "upload-77"}, 400, "neither"),
        ({"verb": "paint"}, 400, "no verb 'paint'"),
        ({"data_dir": "/"}, 400, "no field 'data_dir'"),
        ({"run": "unfinished"}, 404, "it may have been deleted"),
        ({"run": "../exp_toy/new"}, 404, "it may have been deleted"),
        ({"run": ["new"]}, 404, "it may have been deleted"),
    ],
)  # fmt: skip
def test_what_a_page_may_not_ask(ask, fields, status, message):
    assert message in ask(status, **fields)


def test_a_run_that_was_deleted_meanwhile(ask, tmp_path):
    shutil.rmtree(tmp_path / "runs" / "exp_toy" / "new")
    assert "it may have been deleted" in ask(404)


def test_requests_that_are_none(call, ask):
    asking = lambda status, **options: call("POST", "/api/ask/exp_toy", status, **options)["error"]  # noqa: E731
    assert "not JSON" in asking(400, data=b"{")
    assert "an object" not in asking(400, data=b'{"n": NaN}') and "NaN" in asking(400, data=b'{"n": NaN}')
    assert "a JSON object" in asking(400, data=b"[1]")
    assert "1 million bytes" in asking(413, data=b" " * (2**20 + 1))
    assert "10 million bytes" in call("POST", "/api/upload", 413, data=b"x" * (10 * 2**20 + 1))["error"]
    assert "10 million bytes" in call("POST", "/api/upload", 400, data=b"")["error"]
    assert "no experiment" in call("GET", "/api/verbs/exp_none", 404)["error"]
    assert "ask for the verbs of 'exp_new' first" in call("POST", "/api/ask/exp_new", 409, json={})["error"]
    call("GET", "/api/ask/exp_toy", 404)
    call("GET", "/../server.py", 404)
    call("GET", "/server.py", 404)


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example:7860"}, {"Host": "127.0.0.1:80"}, {"Sec-Fetch-Site": "cross-site"}, {"X-Token": "guess"}],
)
def test_others_are_refused(call, headers):
    call("GET", "/api/runs", 403, headers=headers)


def test_a_second_request_is_told_that_the_first_is_worked_on(page, call, ask):
    client = Client(page)
    headers = {"Host": "127.0.0.1:7860", "X-Token": "secret"}
    slow = client.post(
        "/api/ask/exp_toy", json={"verb": "draw", "run": "new", "n": 99}, headers=headers, buffered=False
    )
    lines = slow.iter_encoded()
    assert b"slow" in next(lines)
    assert "busy with another request" in ask(409)
    start = time.monotonic()
    call("POST", "/api/stop")
    assert json.loads(next(lines)) == {"kind": "error", "message": "stopped"} and time.monotonic() - start < 5
    slow.close()
    assert ask(n=1)["n"] == 1  # by a new process


def test_who_leaves_early_frees_the_page(page, ask):
    headers = {"Host": "127.0.0.1:7860", "X-Token": "secret"}
    slow = Client(page).post(
        "/api/ask/exp_toy", json={"verb": "draw", "run": "new", "n": 99}, headers=headers, buffered=False
    )
    next(slow.iter_encoded())
    slow.close()
    assert ask(n=1)["n"] == 1


def test_a_process_that_ends_is_told_and_started_again(page, ask, call):
    found = call("POST", "/api/ask/exp_toy", json={"verb": "draw", "run": "new", "n": 13})
    assert found["kind"] == "error" and "status 3" in found["message"]
    assert ask(n=1)["n"] == 1
    found = call("POST", "/api/ask/exp_toy", json={"verb": "draw", "run": "new", "n": 14})
    assert "perhaps for lack of memory" in found["message"]
    assert ask(n=1)["n"] == 1


def test_a_process_that_cannot_be_started(call, ask, page):
    page.pool.stop()
    page.pool.command = lambda _: ["/no/such/program"]
    found = call("POST", "/api/ask/exp_toy", json={"verb": "draw", "run": "new"})
    assert "no process can be started" in found["message"]
    page.pool.command = toy
    assert ask(n=1)["n"] == 1


def test_a_fault_of_the_server_is_told(call, page, monkeypatch, capsys):
    monkeypatch.setattr(page, "listed", lambda request: 1 / 0)
    assert "division by zero" in call("GET", "/api/runs", 500)["error"]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_line_that_was_cut_off(ask, page, call):
    threading.Timer(1.0, page.pool.stop).start()
    found = call("POST", "/api/ask/exp_toy", json={"verb": "draw", "run": "new", "n": 15})
    assert found == {"kind": "error", "message": "stopped"}


def test_the_next_request_may_follow_at_once(served):
    address = served + "#secret"
    list(play.lines(address, "api/verbs/exp_toy"))
    for _ in range(30):
        *_, last = play.lines(address, "api/ask/exp_toy", {"verb": "draw", "run": "new"})
        assert last["kind"] == "end"


def test_a_request_that_takes_too_long(monkeypatch):
    monkeypatch.setattr(workers, "LIMIT", 0.5)
    worker = Worker(toy(""))
    answers = list(worker.ask({"n": 99}))
    assert answers[0]["kind"] == "text" and "took more than 0.5 seconds" in answers[1]["message"]


def test_two_processes_at_most():
    pool = Pool(toy)
    first, second = pool.get("a"), pool.get("b")
    assert pool.get("a") is first
    pool.get("c")
    assert first.alive() and not second.alive()
    pool.stop()
    assert not first.alive()


@pytest.fixture
def started(tmp_path):
    """`just play` as a process: its address and what else it says."""
    (tmp_path / "runs").mkdir()
    env = os.environ | {"PYTHONPATH": str(runs.ROOT), "TMPDIR": str(tmp_path)}
    found = []

    def start(*words):
        command, pipe = [sys.executable, "-P", "-m", "lib.play", *words], subprocess.PIPE
        found.append(subprocess.Popen(command, cwd=tmp_path, env=env, text=True, stdout=pipe, stderr=pipe))
        return found[-1]

    yield start
    for each in found:
        each.kill()


def test_the_command_line(started, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    first = started("exp_gan_curve", "--port", str(port))
    address = first.stdout.readline()
    assert address.startswith(f"http://127.0.0.1:{port}/") and "?experiment=exp_gan_curve#" in address
    second = started("--port", str(port))
    assert f":{port}/" not in second.stdout.readline()
    assert len(list(tmp_path.glob("puregen-play-*"))) == 2
    for each, number in ((first, signal.SIGINT), (second, signal.SIGTERM)):
        each.send_signal(number)
        each.wait(10)
    assert not list(tmp_path.glob("puregen-play-*"))
    assert f"port {port} is taken" in second.stderr.read() and not first.stderr.read()
    third = started("exp_gan_curv")
    assert third.wait() == 2 and "did you mean exp_gan_curve?" in third.stderr.read()
    assert started("--port", "0").wait() == 2


def test_nothing_of_it_loads_torch():
    code = "import sys, lib.play.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=runs.ROOT).returncode == 0


# ---- in a browser ----

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None,
    reason="needs Debian's chromium and playwright (uv pip install playwright)",
)


@pytest.fixture
def served(page):
    from werkzeug.serving import make_server

    made = make_server("127.0.0.1", 0, page, threaded=True)
    page.hosts = {f"127.0.0.1:{made.port}"}
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.port}/"
    made.shutdown()


def test_what_the_page_takes_is_timed(served):
    found = play.measured(served + "#secret", play.Args("exp_toy", slow='{"n": 99}'), times=2)
    assert len(found) == 6 and max(found.values()) < 10 and found["stopped"] < 3


@needs_browser
def test_a_person_uses_the_page(served, tmp_path):
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        tab, problems, asked = browser.new_page(), [], []
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))

        tab.goto(served)
        tab.get_by_text("the word behind # is missing").wait_for()
        tab.goto(served + "?x#secret")
        out, state = tab.locator("#out"), tab.locator("#go:enabled")
        tab.get_by_role("button", name="Go").wait_for()
        tab.get_by_text("Settings").click()
        tab.get_by_label("N", exact=True).fill("x")
        tab.get_by_role("button", name="Go").click()
        tab.get_by_text("n: x is no whole number").wait_for()
        tab.get_by_label("N", exact=True).fill("4")
        tab.get_by_role("button", name="Go").click()
        out.get_by_text('"n": 4').wait_for()
        assert out.get_by_text("<script>alert(1)</script>").is_visible()
        assert out.get_by_alt_text("a pixel").evaluate("image => image.naturalWidth") == 1
        state.wait_for()

        slider = tab.get_by_label("by 2")  # what a keyboard moves is asked at once
        slider.focus()
        slider.press("ArrowRight")
        out.get_by_text('"by": [0, 0.1]').wait_for()
        state.wait_for()
        # a point is where one clicks; words are chips; the second token has its probability and where it looked
        tab.get_by_role("img", name="the plane").click(position={"x": 196, "y": 66})
        out.get_by_text('"point": [2').wait_for()
        state.wait_for()
        tab.get_by_role("textbox", name="Point").fill("")
        tab.get_by_role("button", name="hair=grey").click()
        assert tab.get_by_role("textbox", name="Label").input_value() == "hair=grey"
        tab.get_by_role("button", name="hair=grey").click()
        assert tab.get_by_role("textbox", name="Label").input_value() == ""
        tokens = out.get_by_role("group", name="Tokens")
        tokens.get_by_role("button").first.focus()
        out.get_by_text("a had 50.0 %").wait_for()
        tab.keyboard.press("ArrowRight")
        out.get_by_text("<b> had 0.100 %").wait_for()
        looked = out.locator(".read").evaluate_all(
            "words => words.map(word => word.style.getPropertyValue('--looked'))"
        )
        assert looked == ["0", "1"]
        out.get_by_role("img", name="a way").first.wait_for()
        out.get_by_label("which of the columns").fill("2")

        files = [tmp_path / "a b.png", tmp_path / "c,d.png"]
        for file in files:
            file.write_bytes(b"x")
        tab.locator("input[type=file]").first.set_input_files(files)
        expect(tab.get_by_label("Pictures")).to_have_value("a-b.png c-d.png")
        tab.get_by_role("button", name="Copy as command").click()
        tab.get_by_text(
            "just sample exp_toy draw a-b.png c-d.png --run runs/exp_toy/new --earlier a b --n 4 --by 0 0.1"
        ).wait_for()

        tab.get_by_label("N", exact=True).fill("99")
        tab.get_by_role("button", name="Go").click()
        out.get_by_text("<b>slow</b>").wait_for()
        tab.get_by_role("button", name="Stop").click()
        out.get_by_text("stopped").wait_for(timeout=3000)
        tab.get_by_role("button", name="Go").click()
        out.get_by_text("<b>slow</b>").wait_for()
        tab.reload()  # who comes back may stop what was left
        tab.get_by_role("button", name="Stop").click()
        tab.get_by_role("button", name="Go").click()
        out.get_by_text('"verb": "draw"').wait_for()
        # another token in place of one of half a character cuts the text in front of the whole one
        tab.get_by_role("button", name="write", exact=True).click()
        box = tab.get_by_role("textbox", name="Text")
        box.fill("🐋 a")
        tab.get_by_role("button", name="Go").click()
        tokens.get_by_role("button").nth(1).click()
        assert out.locator(".others button").count() == 0  # of half a character
        tokens.get_by_role("button").nth(2).click()
        out.get_by_text("! had –").wait_for()
        tokens.get_by_role("button").first.click()
        out.get_by_role("button", name="ok").click()
        out.get_by_text("🐋 a oké!").wait_for()
        assert box.input_value() == "🐋 a ok"
        tab.get_by_role("button", name="Nothing yet").click()
        tab.get_by_text("just run exp_new").wait_for()
        browser.close()
    assert not problems
    assert all(url.startswith((served, "data:")) for url in asked)
