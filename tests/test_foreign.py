"""lib/models/foreign.py: tables from their names and shapes to ours and back, tokenizers, and every kind of file that
is not as it should be."""

import json

import pytest
import torch
from safetensors.torch import save_file

from lib import tree
from lib.data import tokens
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


@pytest.mark.parametrize(
    "wrong, message",
    [
        (torch.tensor([1.0, float("nan"), 0, 0]), "norm: not all are finite numbers"),
        (torch.tensor([1.0, float("-inf"), 0, 0]), "norm: not all are finite numbers"),
        (torch.tensor([1e39, 0, 0, 0], dtype=torch.float64), "norm: not all are finite numbers"),  # in fp32
        (torch.ones(4, dtype=torch.int8), "norm: torch.int8 instead of floating point numbers"),
    ],
)
def test_numbers_that_are_none(wrong, message):
    with pytest.raises(DataError) as told:
        foreign.to_ours(theirs() | {"norm": wrong}, TABLE, ours(), 2, **SIZES)
    assert str(told.value).endswith(message)


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
        found, args = foreign.read(tmp_path / file)
        assert not args and found.keys() == weights.keys()
        assert all(torch.equal(found[name], weights[name]) for name in names)


def test_what_is_read_is_not_changed_in_the_file(tmp_path):
    """Pages of a file, but one's own."""
    save_file({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    torch.save({"a": torch.ones(3)}, tmp_path / "a.bin")
    torch.save({"a": torch.ones(3)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for file in ("a.safetensors", "a.bin", "old.bin"):
        foreign.read(tmp_path / file)[0]["a"].add_(1)
        assert torch.equal(foreign.read(tmp_path / file)[0]["a"], torch.ones(3)), file


def test_checkpoints_of_training_have_weights_in_them(tmp_path):
    """Under one of three names, and with them what nanoGPT tells of its model; parameters no longer want gradients."""
    weights = {"a": torch.nn.Parameter(torch.ones(3))}
    for name in ("model", "state_dict", "model_state_dict"):
        more = {"model_args": {"n_head": 3}, "step": 3, "best": torch.tensor(1.0), "optimizer": {"state": {}}}
        torch.save({**more, name: weights}, tmp_path / "a.pt")
        found, args = foreign.read(tmp_path / "a.pt")
        assert torch.equal(found["a"], torch.ones(3)) and not found["a"].requires_grad and args == {"n_head": 3}
    for wrong in ({"model": {"a": 3}}, {1: torch.zeros(1)}, {}):
        torch.save(wrong, tmp_path / "a.pt")
        with pytest.raises(DataError, match=r"a\.pt holds something else than tensors by name"):
            foreign.read(tmp_path / "a.pt")


def test_names_in_front_are_left_out():
    x, y = torch.zeros(1), torch.ones(1)
    names = ("module.model.norm", "_orig_mod.transformer.norm", "bert.norm", "norm")
    assert [foreign.unwrapped({name: x, "h.0.model.w": y}) for name in names] == [{"norm": x, "h.0.model.w": y}] * 4
    with pytest.raises(DataError, match=r"more than one model: norm is there twice, once as model\.norm"):
        foreign.unwrapped({"norm": x, "model.norm": y})


class Danger:
    def __reduce__(self):
        return print, ("code was run",)


def test_unreadable_files_are_told(tmp_path, capsys):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0")
    (tmp_path / "text.bin").write_text("no weights")
    (tmp_path / "x.safetensors.index.json").write_text("{}")
    torch.save({"a": Danger()}, tmp_path / "code.bin")
    torch.save([torch.zeros(1)], tmp_path / "list.bin")
    (tmp_path / "part.safetensors.index.json").write_text('{"weight_map": {"a": "part-2.safetensors"}}')
    (tmp_path / "names.safetensors.index.json").write_text('{"weight_map": ["a"]}')
    files = ["cut.safetensors", "x.safetensors.index.json", "none.safetensors", "part.safetensors.index.json"]
    for file in [*files, "names.safetensors.index.json", "text.bin", "code.bin", "list.bin", "none.bin"]:
        with pytest.raises(DataError, match=file.split(".")[0]):
            foreign.read(tmp_path / file)
    assert capsys.readouterr().out == ""


# ---- tokenizers ----

TEXT = "the sea by the old man <|endoftext|> naïve  語"


@pytest.fixture
def byte_pairs():
    """With a token that is special, and the number of it."""
    found = tokens.train_lossless("bpe", TEXT * 9, 300)
    found.add_special_tokens(["<|endoftext|>"])
    return found, found.token_to_id("<|endoftext|>")


def test_a_tokenizer_cuts_and_fills_nothing(tmp_path, byte_pairs):
    """What was saved of training: only so many tokens, and as many of each text. A special token is not spelled."""
    made, end = byte_pairs
    made.enable_truncation(3)
    made.enable_padding(length=5)
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "vocab.json").write_text("not read")
    found = foreign.tokenizer(foreign.tokenizer_file(tmp_path / "weights.bin"))
    assert end in made.encode("<|endoftext|>").ids and end not in found.encode(TEXT).ids
    assert found.decode(found.encode(TEXT).ids) == TEXT and len(found.encode("the").ids) < 5


def test_byte_pairs_of_two_files(tmp_path, byte_pairs):
    made, _ = byte_pairs
    made.model.save(str(tmp_path))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + (tmp_path / "merges.txt").read_text().split("\n", 1)[1])
    assert foreign.tokenizer_file(tmp_path) == tmp_path / "vocab.json"
    made.encode_special_tokens = True
    assert foreign.tokenizer(tmp_path / "vocab.json").encode(TEXT).ids == made.encode(TEXT).ids
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    assert foreign.tokenizer(tmp_path / "vocab.json").encode(TEXT).ids == made.encode(" " + TEXT).ids
    (tmp_path / "added_tokens.json").write_text('{"more": 300}')
    with pytest.raises(DataError, match=r"more tokens in added_tokens\.json"):
        foreign.tokenizer(tmp_path / "vocab.json")
    (tmp_path / "added_tokens.json").unlink()
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(DataError, match=r"vocab\.json is not a readable tokenizer"):
        foreign.tokenizer(tmp_path / "vocab.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json is not a readable tokenizer"):
        foreign.tokenizer(tmp_path / "tokenizer.json")


def test_a_tokenizer_of_another_model(byte_pairs):
    made, end = byte_pairs
    foreign.check_tokens(made, "here", end + 1)
    with pytest.raises(DataError, match=f"here knows {end} tokens, the tokenizer {end + 1}: it is that of another"):
        foreign.check_tokens(made, "here", end)
