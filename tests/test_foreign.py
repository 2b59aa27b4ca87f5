"""lib/models/foreign.py: tables from their names and shapes to ours and back, and every kind of file that is not as it
should be."""

import json

import pytest
import torch
from safetensors.torch import save_file

from lib import tree
from lib.faults import DataError
from lib.models import foreign
from lib.models.foreign import Row

# A fused tensor of queries, keys and values with interleaved heads, a transposed matrix, and one that is the same.
TABLE = [
    Row("h.{}.qkv", ("blocks.{}.q", "blocks.{}.k", "blocks.{}.v"), "d (n h c) -> n d h c"),
    Row("h.{}.out", "blocks.{}.out", "f d -> d f"),
    Row("norm", "norm"),
]
SIZES = {"n": 3, "c": 2, "unused": 7}


def ours():
    new = iter(torch.arange(1000.0))
    fill = lambda *shape: torch.stack([next(new) for _ in range(torch.Size(shape).numel())]).view(shape)  # noqa: E731
    block = lambda: {name: fill(4, 2, 2) for name in "qkv"} | {"out": fill(4, 3)}  # noqa: E731
    return {"blocks": [block(), block()], "norm": fill(4)}


def theirs():
    return foreign.to_theirs(ours(), TABLE, 2, **SIZES)


def test_names_and_shapes_are_theirs():
    found = theirs()
    assert {name: tuple(x.shape) for name, x in found.items()} == {
        "h.0.qkv": (4, 12), "h.1.qkv": (4, 12), "h.0.out": (3, 4), "h.1.out": (3, 4), "norm": (4,)
    }  # fmt: skip
    first = ours()["blocks"][0]
    torch.testing.assert_close(found["h.0.qkv"][:, 4:8], first["k"].reshape(4, 4))
    torch.testing.assert_close(found["h.0.out"], first["out"].T)


def test_there_and_back():
    like = tree.map(torch.zeros_like, ours())
    back = foreign.to_ours(theirs(), TABLE, like, 2, **SIZES)
    assert tree.flatten(back).keys() == tree.flatten(like).keys()
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(back), tree.leaves(ours()), strict=True))
    assert all(x.is_contiguous() for x in tree.leaves(back))


def test_they_take_our_dtype():
    halves = {name: x.half() for name, x in theirs().items()}
    assert all(x.dtype == torch.float32 for x in tree.leaves(foreign.to_ours(halves, TABLE, ours(), 2, **SIZES)))


def test_every_fault_is_named():
    weights = theirs()
    del weights["h.1.out"]
    weights |= {"norm": torch.zeros(5), "extra": torch.zeros(1), "h.0.qkv": torch.zeros(4, 11)}
    with pytest.raises(DataError) as told:
        foreign.to_ours(weights, TABLE, ours(), 2, **SIZES)
    for words in (
        "missing: h.1.out",
        "norm: (5,) for norm, which has (4,)",
        "left over: extra",
        "h.0.qkv: shape (4, 11)",
    ):
        assert words in str(told.value)


def test_files_are_read(tmp_path):
    weights = theirs()
    save_file(weights, tmp_path / "a.safetensors")
    torch.save(weights, tmp_path / "a.bin")
    names = sorted(weights)
    save_file({name: weights[name] for name in names[:2]}, tmp_path / "p1.safetensors")
    save_file({name: weights[name] for name in names[2:]}, tmp_path / "p2.safetensors")
    places = {name: f"p{1 + (i > 1)}.safetensors" for i, name in enumerate(names)}
    (tmp_path / "a.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    for file in ("a.safetensors", "a.bin", "a.safetensors.index.json"):
        found = foreign.read(tmp_path / file)
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], weights[name]) for name in names)


def test_what_is_read_is_not_changed_in_the_file(tmp_path):
    """Pages of a file, but one's own."""
    save_file({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    torch.save({"a": torch.ones(3)}, tmp_path / "a.bin")
    torch.save({"a": torch.ones(3)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for file in ("a.safetensors", "a.bin", "old.bin"):
        foreign.read(tmp_path / file)["a"].add_(1)
        assert torch.equal(foreign.read(tmp_path / file)["a"], torch.ones(3)), file


class Danger:
    def __reduce__(self):
        return print, ("code was run",)


def test_unreadable_files_are_told(tmp_path, capsys):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0")
    (tmp_path / "text.bin").write_text("no weights")
    (tmp_path / "x.safetensors.index.json").write_text("{}")
    torch.save({"a": Danger()}, tmp_path / "code.bin")
    torch.save([torch.zeros(1)], tmp_path / "list.bin")
    torch.save({"step": 3, "model": {"a": torch.zeros(1)}}, tmp_path / "nested.bin")
    files = ["cut.safetensors", "x.safetensors.index.json", "none.safetensors"]
    for file in [*files, "text.bin", "code.bin", "list.bin", "nested.bin", "none.bin"]:
        with pytest.raises(DataError, match=file.split(".")[0]):
            foreign.read(tmp_path / file)
    assert capsys.readouterr().out == ""
