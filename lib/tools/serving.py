"""The same tools for other assistants: a server of the Model Context Protocol (modelcontextprotocol.io) on standard
input and output, by the optional package mcp. There is no other way in: it listens on no port."""

import threading
from collections.abc import Mapping
from typing import Any

from lib.answers import Answer, Note, Text
from lib.data import files
from lib.data.requests import NEEDED, NONE, TOOLS
from lib.faults import Fault, RunError
from lib.run.worker import as_data
from lib.tools.desk import ABOUT, Desk

MOST = 10_000  # characters of an argument
EXTRA = {"lookup": ("question",)}  # what a tool reads besides its slots
_ONE = threading.Lock()
LEFT_OUT = {"chat", NONE}  # who asks has a larger model


def schemas(documents: bool) -> dict[str, dict[str, Any]]:
    """{tool: JSON schema of its arguments}, all of them strings."""
    found = {}
    for tool, slots in TOOLS.items():
        if tool not in LEFT_OUT and (documents or tool != "documents"):
            more = EXTRA.get(tool, ())
            fields = {name: {"type": "string", "maxLength": MOST} for name in (*more, *slots)}
            needed = [*more, *NEEDED[tool]]
            found[tool] = {"type": "object", "properties": fields, "required": needed, "additionalProperties": False}
    return found


def called(desk: Desk, tool: str, asked: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """(contents as the protocol has them, whether it failed)."""
    known = schemas(desk.documents is not None)
    if tool not in known:
        return [_text(f"no tool {tool[:40]!r}: {', '.join(known)}")], True
    fine = all(name in known[tool]["properties"] and isinstance(x, str) and len(x) <= MOST for name, x in asked.items())
    if not fine:
        return [_text(f"{tool} takes texts of up to {MOST:,} characters: {', '.join(known[tool]['properties'])}")], True
    values = {name: files.printable(value) for name, value in asked.items()}
    try:
        with _ONE:  # a worker answers one at a time
            found = list(desk.use(tool, values, values.get("question", " ".join(values.values()))))
    except Fault as error:
        return [_text(str(error))], True
    return [_content(answer) for answer in found], False


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _content(answer: Answer) -> dict[str, Any]:
    data = as_data(answer)
    if isinstance(answer, Text | Note):
        return _text(answer.text)
    if data["kind"] == "picture":
        kind = data["name"].rpartition(".")[2]
        return {"type": "image", "data": data["base64"], "mimeType": f"image/{'svg+xml' if kind == 'svg' else kind}"}
    if data["kind"] == "sound":
        return {"type": "audio", "data": data["base64"], "mimeType": "audio/wav"}
    return _text(answer.lines() if hasattr(answer, "lines") else f"{data.get('name', data['kind'])} was made")


def serve(desk: Desk) -> None:
    """Answers until its input ends. Raises RunError where the package is missing."""
    try:
        import anyio
        from anyio import to_thread
        from mcp import types
        from mcp.server.lowlevel import Server
        from mcp.server.stdio import stdio_server
    except ImportError as error:
        raise RunError("--serve-mcp needs a package: uv pip install --python .venv 'mcp>=2.3,<3'") from error

    async def listed(context: Any, params: Any) -> Any:
        found = schemas(desk.documents is not None)
        tools = [{"name": name, "description": ABOUT[name], "inputSchema": of} for name, of in found.items()]
        return types.ListToolsResult.model_validate({"tools": tools})

    async def used(context: Any, params: Any) -> Any:
        content, failed = await to_thread.run_sync(called, desk, params.name, params.arguments or {})
        return types.CallToolResult.model_validate({"content": content, "isError": failed})

    async def main() -> None:
        server = Server("puregen", on_list_tools=listed, on_call_tool=used)
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    anyio.run(main)
