"""lib/tools/web.py and online.py against a host on the loopback address that misbehaves in every way."""

import base64
import contextlib
import io
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image

from lib import sound
from lib.answers import Note, Picture, Sound, Text
from lib.faults import DataError, RunError
from lib.tools import online, web

KEY = "sk-canary-4f1d"
INJECTIONS = Path(__file__).parent / "assistant" / "injections.tsv"
TOOLS = {
    "calculate": (online.schema("calculate", "sums", ["expression"]), lambda asked: asked["expression"] + " is 4"),
    "refuses": (online.schema("refuses", "", []), lambda asked: _refuse()),
}


def _refuse():
    raise DataError("1/0 divides\nby 0")


def said(*texts):
    return [{"choices": [{"delta": {"content": text}}]} for text in texts]


def called(name, arguments, index=0, id="c1"):
    function = {"name": name, "arguments": arguments}
    return {"choices": [{"delta": {"tool_calls": [{"index": index, "id": id, "function": function}]}}]}


@pytest.fixture
def host(monkeypatch):
    """A host whose answers a test lists: (status, headers, parts of the body, seconds between them). It keeps what it
    was asked."""

    class Handler(BaseHTTPRequestHandler):
        def respond(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found.asked.append((self.path, dict(self.headers), json.loads(body) if body else None))
            status, headers, parts, pause = found.answers.pop(0) if found.answers else (500, {}, [], 0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for part in parts:
                    self.wfile.write(part)
                    self.wfile.flush()
                    time.sleep(pause)
            except OSError:
                pass  # whoever asked has left

        do_GET = do_POST = respond  # noqa: N815

        def log_message(self, *_):
            pass

    class Found:
        asked, answers = [], []

        def add(self, *parts, status=200, headers=(), pause=0.0):
            self.answers.append((status, dict(headers), parts, pause))

        def events(self, *events, end=b"data: [DONE]\n\n"):
            self.add(b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + end)

    found = Found()
    found.asked, found.answers = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    for name, value in {"BASE_URL": found.url + "/v1/", "MODEL": "tiny", "API_KEY": KEY}.items():
        monkeypatch.setenv(f"OPENAI_{name}", value)
    yield found
    server.shutdown()
    server.server_close()


def talk(tools=TOOLS):
    """(what was said, notes) of one question to the endpoint."""
    first, *answers = online.Endpoint().chat([("system", "Be brief."), ("user", "2+2?")], tools)
    assert first == Note("asking 127.0.0.1")
    return "".join(a.text for a in answers if isinstance(a, Text)), [a.text for a in answers if isinstance(a, Note)]


def test_words_come_as_they_are_sent(host):
    host.events(*said("Fo", "ur", " €"), {"choices": []}, {"usage": {}})
    assert talk() == ("Four €\n", ["tiny at 127.0.0.1: not checked"])
    path, headers, body = host.asked[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body["stream"] and body["messages"][1] == {"role": "user", "content": "2+2?"}
    assert body["tools"][0]["function"]["parameters"]["properties"] == {"expression": {"type": "string"}}


def test_an_event_may_be_cut_anywhere_and_the_end_be_missing(host):
    whole = b"".join(b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in said("Fo\u00fcr", "!"))
    host.add(*(whole[i : i + 3] for i in range(0, len(whole), 3)))
    assert talk()[0] == "Foür!\n"
    host.add(b"data: " + json.dumps(said("no end")[0]).encode())
    assert talk()[0] == "no end\n"


def test_tools_are_called_by_deltas(host):
    first, second = called("calculate", '{"expr'), called("", 'ession": "2+2"}', id="")
    host.events(first, second, called("refuses", "", 1, "c2"))
    host.events(*said("4"))
    text, notes = talk()
    assert text == "4\n" and notes[:2] == ['[calculate] {"expression": "2+2"}', "[refuses] "]
    messages = host.asked[1][2]["messages"]
    assert messages[2]["tool_calls"][0]["function"] == {"name": "calculate", "arguments": '{"expression": "2+2"}'}
    assert [m["content"] for m in messages[3:]] == ["2+2 is 4", "1/0 divides by 0"]


@pytest.mark.parametrize(
    "name, arguments, told",
    [
        ("rm", "{}", "no tool 'rm': calculate, refuses"),
        ("calculate", "[" * 100_000, "the arguments are not JSON"),
        ("calculate", "{", "the arguments are not JSON"),
        ("calculate", "[1]", "the arguments are not JSON: not an object"),
    ],
)
def test_a_call_that_cannot_be_made_is_told(host, name, arguments, told):
    host.events(called(name, arguments))
    host.events(*said("sorry"))
    assert talk()[0] == "sorry\n"
    assert host.asked[1][2]["messages"][-1]["content"].startswith(told)


def test_calls_end(host):
    for _ in range(3):
        host.events(called("calculate", '{"expression": "1"}'))
    text, notes = talk()
    assert "twice with the same words" in notes[1] and len(host.asked) == 2 and text == "It said nothing.\n"
    host.asked.clear(), host.answers.clear()
    for i in range(9):
        host.events(called("calculate", json.dumps({"expression": str(i)})))
    talk()
    assert len(host.asked) == online.STEPS + 1 and "tools" not in host.asked[-1][2]


def test_what_a_tool_says_is_cut(host):
    host.events(called("long", "{}"))
    host.events(*said("ok"))
    talk({"long": (online.schema("long", "", []), lambda asked: "x" * 10_000)})
    assert host.asked[1][2]["messages"][-1]["content"] == "x" * online.SHOWN


@pytest.mark.parametrize(
    "status, headers, told",
    [
        (401, {}, r"127\.0\.0\.1: it refuses the key \(401\)"),
        (429, {"Retry-After": "7"}, "too many requests: ask again in 7 seconds"),
        (429, {"Retry-After": "\x1b[31m"}, "ask again later"),
        (500, {}, r"it failed \(500\)"),
        (404, {}, r"it refuses the request \(404\)"),
        (302, {"Location": "http://127.0.0.1:1/steal"}, "another address, which is not followed"),
        (307, {"Location": "/elsewhere"}, "not followed"),
    ],
)
def test_faults_of_the_host_are_told(host, status, headers, told):
    host.add(b"no", status=status, headers=headers)
    with pytest.raises(RunError, match=told) as error:
        talk()
    assert KEY not in str(error.value) and len(host.asked) == 1


@pytest.mark.parametrize(
    "body, told",
    [
        (b"data: {nonsense\n", "no event of OpenAI's protocol"),
        (b"data: [1]\n", "no event of OpenAI's protocol"),
        (b"data: \xff\xfe\n", "no event of OpenAI's protocol"),
        (b'data: {"error": "\\u001b[2Jquota"}\n', r"the endpoint says: \[2Jquota"),
        (b"x" * (web.LARGEST + 1), "more than 4,194,304 bytes"),
        (b"data: " + b"[" * 100_000 + b"\n", "no event of OpenAI's protocol"),
        (b'data: {"choices": [{"delta": {"tool_calls": [{"index": 1e999}]}}]}\n', "no event of OpenAI's protocol"),
    ],
)
def test_what_is_no_answer_is_refused(host, body, told):
    host.add(body)
    with pytest.raises(RunError, match=told):
        talk()


def test_a_slow_host_is_left(host, monkeypatch):
    monkeypatch.setattr(web, "deadline", lambda: (lambda end: lambda: end - time.monotonic())(time.monotonic() + 0.5))
    host.add(*[b": drip\n"] * 100, pause=0.05)
    started = time.monotonic()
    with pytest.raises(RunError, match="took more than 60 seconds"):
        talk()
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("part", [b"x-a: 1\r\n", b""])
def test_a_host_that_drips_its_headers_is_left(monkeypatch, part):
    """Before there is a response, which could be read in pieces."""
    monkeypatch.setattr(web, "deadline", lambda: (lambda end: lambda: end - time.monotonic())(time.monotonic() + 0.5))
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=drip, args=(server, part), daemon=True).start()
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("OPENAI_MODEL", "tiny")
        started = time.monotonic()
        with pytest.raises(RunError, match="took more than 60 seconds"):
            talk()
        assert time.monotonic() - started < 3


def drip(server, part):
    with contextlib.suppress(OSError):
        taken, _ = server.accept()
        taken.sendall(b"HTTP/1.1 200 OK\r\n")
        for _ in range(60):
            taken.sendall(part)
            time.sleep(0.05)


def test_a_long_line_is_read_in_time(host):
    host.add(*[b"x" * 1024] * 4000)
    started = time.monotonic()
    assert len(next(web.lines(host.url, web.deadline()))) == 4000 * 1024 and time.monotonic() - started < 10


def test_a_key_with_odd_signs_is_told_by_no_one(host, monkeypatch):
    for key in ("sk-canary\x07", "sk-canäry"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(RunError, match="signs in it that no key has") as error:
            talk()
        assert "canary" not in str(error.value)
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\r\n")  # of a file that another system wrote
    host.events(*said("hi"))
    assert talk()[0] == "hi\n" and host.asked[-1][1]["Authorization"] == f"Bearer {KEY}"


def test_a_proxy_does_not_get_what_is_for_this_machine(host, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    host.events(*said("hi"))
    assert talk()[0] == "hi\n"


def test_too_many_calls_at_once_are_not_made(host):
    host.events(*(called("calculate", json.dumps({"expression": str(i)}), i, f"c{i}") for i in range(9)))
    _, notes = talk()
    assert "called 9 tools at once" in notes[0] and len(host.asked) == 1


def test_the_environment_names_the_endpoint(host, monkeypatch):
    monkeypatch.delenv("OPENAI_MODEL")
    with pytest.raises(RunError, match="--online needs OPENAI_BASE_URL and OPENAI_MODEL"):
        talk()
    monkeypatch.setenv("OPENAI_MODEL", "tiny")
    for url, told in (
        ("http://example.org/v1", "by https:// only"),
        ("file:///etc", "is no address of a host"),
        ("https://[x", "is no address"),
    ):
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        with pytest.raises(RunError, match=told):
            list(online.Endpoint().chat([("user", "hi")]))
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(RunError, match=r"no answer from 127\.0\.0\.1"):
        list(online.Endpoint().chat([("user", "hi")]))


def test_pictures_and_speech(host, monkeypatch, tmp_path):
    endpoint = online.Endpoint()
    with pytest.raises(RunError, match="OPENAI_IMAGE_MODEL"):
        list(endpoint.picture("a cat", tmp_path / "x.png"))
    monkeypatch.setenv("OPENAI_IMAGE_MODEL", "paints")
    monkeypatch.setenv("OPENAI_SPEECH_MODEL", "speaks")
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    host.add(json.dumps({"data": [{"b64_json": base64.b64encode(file.getvalue()).decode()}]}).encode())
    _, picture = endpoint.picture("a cat", tmp_path / "x.png")
    assert isinstance(picture, Picture) and picture.content == file.getvalue()
    for body in (b"{}", b"[]", b"{", b"\xff", b'{"data": [{"b64_json": "PHN2Zz4="}]}'):
        host.add(body)
        with pytest.raises(RunError):
            list(endpoint.picture("a cat", tmp_path / "x.png"))
    for n in (7, 10):  # whose last byte may be a line end
        wave = sound.wav(torch.full((n,), 10 / 32767 * 256.04), 8000)
        host.add(wave)
        _, speech = endpoint.speech("hello", tmp_path / "x.wav")
        assert isinstance(speech, Sound) and len(speech.samples) == n and speech.rate == 8000
    host.add(b"RIFF")
    with pytest.raises(RunError, match="no speech"):
        list(endpoint.speech("hello", tmp_path / "x.wav"))


def likeness(texts):
    """Features by shared words."""
    words = [set(text.lower().strip(".?").split()) for text in texts]
    known = ["actor", "best", "won"]
    return torch.tensor([[float(word in one) for word in known] for one in words])


def test_wikipedia_is_quoted_with_title_and_address(host, monkeypatch):
    monkeypatch.setattr(online, "WIKIPEDIA", host.url)
    extract = "It is held every year. The best actor of 2024 was a man \x1b[31mwho won it. == Names == Nobody else."
    host.add(json.dumps({"query": {"pages": {"7": {"title": "Film prize", "extract": extract}}}}).encode())
    _, text, note = online.wikipedia("who is the best actor of 2024", likeness)
    assert text == Text("“The best actor of 2024 was a man [31mwho won it.”\n")
    assert note.text == f"Wikipedia, “Film prize”: {host.url}/wiki/Film_prize"
    path, headers, _ = host.asked[0]
    assert "gsrsearch=who+is+the+best+actor" in path and headers["User-Agent"].startswith("Puregen/")
    assert "Authorization" not in headers
    for body in (b"{}", b'{"query": []}', b'{"query": {"pages": {"7": {"title": "Empty"}}}}'):
        host.add(body)
        assert list(online.wikipedia("who", likeness))[1:] == [Text("Wikipedia has no page on it.\n")]


def test_what_stands_in_wikipedia_is_quoted_and_obeyed_by_nobody(host, monkeypatch):
    monkeypatch.setattr(online, "WIKIPEDIA", host.url)
    lines = [line for line in INJECTIONS.read_text(encoding="utf-8").split("\n") if line.strip()]
    assert len(lines) == 50
    for line in lines:
        page = {"title": line[:60], "extract": f"{line} These are four more words."}
        host.add(json.dumps({"query": {"pages": {"1": page}}}).encode())
        asked, said, note = online.wikipedia("who won", likeness)
        assert asked == Note("asking 127.0.0.1") and said.text.startswith("“") and said.text.endswith("”\n")
        assert note.text.startswith("Wikipedia, “")
        assert all(c.isprintable() for c in (said.text + note.text).replace("\n", "").replace("\t", ""))
    assert len(host.asked) == len(lines)


def test_wolframs_key_is_in_no_message(host, monkeypatch):
    monkeypatch.setattr(online, "WOLFRAM", host.url + "/v1/result")
    monkeypatch.setenv("WOLFRAM_APPID", "app/canary 77")
    host.add(b"about 3.1 miles")
    assert list(online.wolfram("5 km"))[1] == Text("about 3.1 miles\n")
    host.add(b"", status=501)
    with pytest.raises(RunError) as error:
        list(online.wolfram("5 km"))
    monkeypatch.setattr(online, "WOLFRAM", "nonsense://")
    with pytest.raises(RunError) as other:
        list(online.wolfram("5 km"))
    assert "canary" not in str(error.value) + str(other.value)
