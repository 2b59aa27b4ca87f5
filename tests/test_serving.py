"""lib/tools/serving.py: the assistant's tools for other assistants, and what these cannot make them do."""

import base64
import json
import subprocess
import sys

import pytest

from lib import runs, workers
from lib.data import atlas
from lib.faults import RunError
from lib.tools import serving
from lib.tools.desk import Desk

SERVER = """
from lib import workers
from lib.tools import serving
from lib.tools.desk import Desk
serving.serve(Desk(workers.Pool(alone=False)))
"""


@pytest.fixture
def desk():
    found = Desk(workers.Pool(alone=False))
    found.atlas = atlas.Atlas([], [])
    return found


def test_a_tool_is_called_with_texts(desk):
    assert serving.called(desk, "calculate", {"expression": "23*55+123"})[0][0] == {"type": "text", "text": "1388\n"}
    contents, failed = serving.called(desk, "plot", {"formula": "sin(x)", "low": "0", "high": "10"})
    assert not failed and contents[0]["mimeType"] == "image/png"
    assert base64.b64decode(contents[0]["data"])[:4] == b"\x89PNG"
    json.dumps(contents)


@pytest.mark.parametrize(
    "tool, asked, told",
    [
        ("rm", {}, "no tool 'rm': calculate"),
        ("documents", {"question": "x"}, "no tool 'documents'"),  # none were given
        ("chat", {}, "no tool 'chat'"),
        ("calculate", {"expression": 5}, "takes texts of up to 10,000 characters: expression"),
        ("calculate", {"expression": "1", "run": "/etc"}, "takes texts"),
        ("calculate", {"expression": "x" * 10_001}, "takes texts"),
        ("calculate", {"expression": "().__class__"}, "was not expected"),
        ("calculate", {"expression": "1/0"}, "divides by 0"),
        ("clock", {"place": "Atlantis"}, "Atlantis is no city"),
        ("sentiment", {"text": "fine"}, "`just run exp_bert_sentiment` makes one"),
    ],
)
def test_what_cannot_be_called(desk, tool, asked, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (contents, failed) = serving.called(desk, tool, asked)
    assert failed and told in contents[0]["text"]


def test_every_schema_is_closed():
    for tool, schema in serving.schemas(documents=True).items():
        assert schema["additionalProperties"] is False and set(schema["required"]) <= set(schema["properties"]), tool
    assert "documents" in serving.schemas(True) and not {"chat", "none"} & set(serving.schemas(True))


def test_without_the_package_it_says_which(desk, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(RunError, match="uv pip install"):
        serving.serve(desk)


def test_the_protocol_is_spoken():
    pytest.importorskip("mcp")
    first = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
    messages = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": first},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
        {"jsonrpc": "2.0", "id": 3, "method": "tools/call",
         "params": {"name": "calculate", "arguments": {"expression": "2**10"}}},
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=runs.ROOT
    )
    found = {}
    for message in messages:
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        if "id" in message:
            found[message["id"]] = json.loads(process.stdout.readline())["result"]
    process.stdin.close()
    assert process.wait(20) == 0
    assert "convert" in [tool["name"] for tool in found[2]["tools"]]
    assert found[3]["content"][0]["text"] == "1024\n" and not found[3].get("isError")
