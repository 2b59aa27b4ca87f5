"""Fixtures shared by all tests."""

import itertools
import os
import sys

import pytest
import torch

from lib import cli, judge, random
from lib.data import drawn

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)  # threads that share a core wait for each other


@pytest.fixture
def key():
    return random.key(0)


@pytest.fixture(autouse=True)
def plain_draws(request, monkeypatch):
    """Draws inside compiled steps run eagerly, but in test_random: their kernels are graphs of their own, which take
    seconds to compile and which tests that count graphs would count."""
    if not request.module.__name__.endswith("test_random"):
        monkeypatch.setattr(random, "_kernel", lambda fn: fn)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """An experiment's command line in this process, in a folder of its own: status, output and error output."""
    monkeypatch.chdir(tmp_path)

    def main(exp, *words):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [exp.NAME, *(str(word) for word in words)])
        try:
            cli.main(exp.NAME, exp.PRESETS, exp.train, exp.sample, exp.Use)
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
def drawn_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def few_faces(drawn_cache, monkeypatch):
    """Flags for 60 drawn faces of 16 pixels, in a cache of the tests' own, and a judge hardly trained."""
    monkeypatch.setenv("PUREGEN_CACHE", str(drawn_cache))
    monkeypatch.setattr(judge, "STEPS", 2)
    monkeypatch.setattr(drawn, "_cores", lambda: 1)
    return ["--size", 16, "--faces", 60]
