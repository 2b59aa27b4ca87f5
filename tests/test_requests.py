"""lib/data/requests.py: requests written by hand, and how arguments are marked in them."""

import hashlib
from collections import Counter

import pytest

from lib.data import requests
from lib.data.requests import Span
from lib.faults import DataError


def test_the_held_requests_are_those_that_were_frozen():
    """They measure models that are trained later: who changes one makes every figure before it another's."""
    found = hashlib.sha256(requests.HELD.read_bytes()).hexdigest()
    assert found == "df0042e5fd3d73a53843578ad01c9f58e5cd729cac5e246272b559158e59785f"


def test_every_tool_is_asked_for_and_every_slot_filled():
    held = requests.held()
    assert len(held) == len({one.text.lower() for one in held}) == 323
    tools = Counter(one.tool for one in held)
    assert tools.keys() == requests.TOOLS.keys() and min(tools.values()) >= 14
    slots = {(one.tool, slot) for one in held for slot, _ in one.arguments()}
    assert slots == {(tool, slot) for tool, of in requests.TOOLS.items() for slot in of}
    assert all(words == words.strip() and words for one in held for _, words in one.arguments())


def test_arguments_are_where_they_stand():
    found = requests.marked("convert", "how many {miles|to} are {5|amount} {km|from}?")
    assert found.text == "how many miles are 5 km?"
    assert found.spans == (Span("to", 9, 14), Span("amount", 19, 20), Span("from", 21, 23))
    assert found.arguments() == [("to", "miles"), ("amount", "5"), ("from", "km")]
    assert requests.marked("chat", "hello") == ("hello", "chat", ())


@pytest.mark.parametrize(
    "tool, line, message",
    [
        ("fly", "to the moon", "no tool 'fly'"),
        ("chat", "{hello|text}", "chat has no slot 'text'"),
        ("speak", "say {hello", "an argument is written"),
        ("speak", "say {hello|text", "an argument is written"),
        ("speak", "say {{hello|text}}", "an argument is written"),
    ],
)
def test_what_is_marked_wrongly(tool, line, message):
    with pytest.raises(DataError, match=message):
        requests.marked(tool, line)
