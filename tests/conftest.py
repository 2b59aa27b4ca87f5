"""Fixtures shared by all tests."""

import lib  # noqa: F401 (before torch: it says how OpenMP waits)

# isort: split
import dataclasses
import itertools
import json
import os
import sys

import pytest
import torch
from safetensors.torch import save_file

from lib import random, run, threefry
from lib.data import drawing, midi, tokens, voices
from lib.models import gpt, smollm
from lib.run import cli, settings
from lib.tasks import generated, judge

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)  # threads that share a core wait for each other


def pytest_addoption(parser):
    parser.addoption(
        "--device", choices=["cpu", "cuda"], default="cpu",
        help="cuda: only the tests marked `device`, with every experiment on the GPU whatever its flags say",
    )  # fmt: skip


def pytest_configure(config):
    if config.getoption("device") == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: torch finds no CUDA device here")


def pytest_collection_modifyitems(config, items):
    """Elsewhere than on a CPU the tests that say nothing about the device are left out."""
    if config.getoption("device") != "cpu":
        left_out = [item for item in items if not item.get_closest_marker("device")]
        items[:] = [item for item in items if item.get_closest_marker("device")]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def device(request):
    """Where experiments run. Commands that a test starts in processes of their own are to be told."""
    return torch.device("cuda", 0) if request.config.getoption("device") == "cuda" else torch.device("cpu")


@pytest.fixture(scope="session", autouse=True)
def forced(device):
    """The tests' flags say `--device cpu`, and what uses a run takes the GPU where there is one. On a GPU all runs are
    deterministic: a resumed one is to be the same bit for bit."""
    real = settings.device
    with pytest.MonkeyPatch.context() as patch:
        if device.type != "cpu":
            for module in (settings, run):
                patch.setattr(
                    module,
                    "device",
                    lambda args: real(dataclasses.replace(args, device=device.type, deterministic=True)),
                )
        yield


@pytest.fixture
def key():
    return random.key(0)


@pytest.fixture(autouse=True)
def plain_draws(request, monkeypatch):
    """Draws inside compiled steps run eagerly, but in test_random: their kernels are graphs of their own, which take
    seconds to compile and which tests that count graphs would count."""
    if not request.module.__name__.endswith("test_random"):
        monkeypatch.setattr(threefry, "_kernel", lambda fn: fn)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """An experiment's command line in this process, in a folder of its own: status, output and error output."""
    monkeypatch.chdir(tmp_path)

    def main(exp, *words):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [exp.NAME, *(str(word) for word in words)])
        try:
            cli.main(exp.NAME, exp.PRESETS, exp.train, exp.load, exp.answers, exp.Use, getattr(exp, "OTHERWISE", None))
            status, message = 0, ""
        except SystemExit as stop:
            status, message = (1, stop.code) if isinstance(stop.code, str) else (stop.code, "")
        told = capsys.readouterr()
        return status, told.out, told.err + message

    return main


@pytest.fixture(scope="session")
def sentences(tmp_path_factory):
    """Pairs of columns, every sentence different."""
    path = tmp_path_factory.mktemp("sentences") / "tiny.tsv"
    who, how = ["cat", "dog", "boy", "man", "horse", "king"], ["small", "big", "old", "sad", "tired", "alone", "here"]
    rows = [f"The {a} is {b}.\tLe {a[::-1]} est {b[::-1]}." for a, b in itertools.product(who, how)]
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="session")
def story(tmp_path_factory):
    """Some 9,000 characters in paragraphs, every one different."""
    who, what = ("the old man", "a boy", "the fish", "my brother"), ("saw", "heard", "followed", "called")
    lines = [f"On day {n} {who[n % 4]} {what[n // 4 % 4]} {who[n // 3 % 4]} by the sea – twice." for n in range(180)]
    path = tmp_path_factory.mktemp("data") / "story.txt"
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    """A CSV file of 180 sentences that say good or bad things."""
    path = tmp_path_factory.mktemp("data") / "films.csv"
    who, words = ("film", "story", "music", "ending", "hero", "cast"), ("good", "fine", "great", "bad", "poor", "awful")
    rows = [
        f"The {a} of part {n} is {b}.,{'up' if i < 3 else 'down'}"
        for a, n, (i, b) in itertools.product(who, range(5), enumerate(words))
    ]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return path


@pytest.fixture(scope="session")
def tiny_llama(films, tmp_path_factory):
    """A folder of weights of Llama's shape, as the hub has them: 3 blocks, with a head of their own."""
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    folder.mkdir()
    tokenizer = tokens.train_lossless("bpe", films.read_text(), 320)
    tokenizer.save(str(folder / "tokenizer.json"))
    cfg = smollm.config(
        tokenizer.get_vocab_size(), 32, 3, untied=True, width=24, heads=3, kv_heads=1, ff=32, eps=1e-5,
        rotary_base=1e4,
    )  # fmt: skip
    save_file(smollm.to_theirs(gpt.init(random.key(5), cfg), smollm.HUB, cfg), folder / "model.safetensors")
    facts = {
        "model_type": "llama", "vocab_size": cfg.vocabulary, "max_position_embeddings": 32, "num_hidden_layers": 3,
        "hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 3, "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5, "rope_theta": 1e4,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="session")
def tagged(tmp_path_factory):
    """Sentences whose words are tagged with persons and places."""
    people, places, verbs = ("Tom Hanks", "Ann", "Bo Li"), ("Paris", "New York", "Rome"), ("in", "sees", "leaves")
    blocks = []
    for a, b, c, n in itertools.product(people, verbs, places, range(6)):
        words = [f"day{n}\tO"]
        for name, kind in ((a, "person"), (b, ""), (c, "place")):
            words += [f"{w}\t{f'{side}-{kind}' if kind else 'O'}" for w, side in zip(name.split(), "BI", strict=False)]
        blocks.append("\n".join(words))
    path = tmp_path_factory.mktemp("data") / "tagged.txt"
    path.write_text("\n\n".join(blocks) + "\n")
    return path


@pytest.fixture(scope="session")
def songs(tmp_path_factory):
    """A folder of thirty MIDI files of four voices that go in steps, every one different."""
    folder = tmp_path_factory.mktemp("songs")
    for i in range(30):
        up, down = torch.arange(16).remainder(5), -torch.arange(16).remainder(3 + i % 3)
        chords = torch.stack([67 + up, 60 + down, 55 + up // 2, 48 + down], 1) + i % 4
        pitch = chords.repeat_interleave(2 + i % 2, 0)[: 32 + i % 5]
        cells = voices.tokens(pitch, torch.zeros_like(pitch, dtype=torch.bool))
        (folder / f"{i}.mid").write_bytes(midi.encoded(voices.notes(cells, 90), 90, voices.NAMES))
    return folder


@pytest.fixture
def recital(tmp_path):
    """A folder of thirty MIDI files of some seconds of piano, every one different."""
    folder = tmp_path / "recital"
    folder.mkdir()
    for i in range(30):
        k_time, k_pitch, k_loud = random.split(random.fold_in(random.key(15), i), 3)
        start = (random.uniform(k_time, (60,)) * 5).sort().values
        pitch, loud = random.randint(k_pitch, (60,), 40, 90).long(), random.randint(k_loud, (60,), 20, 110).long()
        notes = voices.Notes(start, torch.full((60,), 0.2 + i / 50), pitch, loud, torch.zeros(60, dtype=torch.int64))
        (folder / f"{i:02}.mid").write_bytes(midi.encoded(notes, 120, ["piano"], midi.PIANO))
    return folder


@pytest.fixture(scope="session")
def drawn_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def few_faces(drawn_cache, monkeypatch):
    """Flags for 60 drawn faces of 16 pixels, in a cache of the tests' own, and a judge hardly trained."""
    monkeypatch.setenv("PUREGEN_CACHE", str(drawn_cache))
    for name in ("FACES", "OTHERS"):
        monkeypatch.setattr(judge, name, getattr(judge, name)._replace(steps=2))
    monkeypatch.setattr(drawing, "_cores", lambda: 1)
    monkeypatch.setattr(generated, "JUDGED", 60)
    return ["--size", 16, "--faces", 60]
