"""The flags of every experiment: numbers have bounds, and what cannot be is told before anything is loaded."""

import dataclasses
import importlib
import math
import re
import sys
from pathlib import Path

import pytest

from lib.run import cli

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "experiments").glob("exp_*.py")))
def test_every_number_has_bounds(name):
    """And what a preset says is within them. A seed of more than 64 bits would be another one."""
    args = importlib.import_module(f"experiments.{name}").PRESETS["small"]
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        numbers = value if isinstance(value, tuple) and value else (value,)
        if type(numbers[0]) not in (int, float):
            continue
        for bad in (
            (-1, math.nan) if type(numbers[0]) is float else (2**70, -(2**70)) if field.name == "seed" else (-1,)
        ):
            with pytest.raises(ValueError, match=f"--{field.name.replace('_', '-')} must be .*, not {bad}"):
                dataclasses.replace(args, **{field.name: (bad, *numbers[1:]) if isinstance(value, tuple) else bad})


@pytest.mark.parametrize(
    "name, words, message",
    [
        ("exp_transformer_fr", ["--heads", "0"], "--heads must be at least 1, not 0"),
        ("exp_transformer_fr", ["--smoothing", "2"], "--smoothing must be at least 0 and below 1, not 2.0"),
        ("exp_transformer_fr", ["--dropout", "1.5"], "--dropout must be"),
        ("exp_transformer_fr", ["--ema-decay", "2"], "--ema-decay must be"),
        ("exp_transformer_fr", ["--warmup", "-5"], "--warmup must be at least 0, not -5"),
        ("exp_transformer_fr", ["--lr", "inf"], "--lr must be at least 0, not inf"),
        ("exp_transformer_fr", ["--beams", "0"], "--beams must be"),
        ("exp_transformer_fr", ["--test-sentences", "0"], "--test-sentences must be"),
        (
            "exp_transformer_fr",
            ["--width", "33", "--heads", "3"],
            "rotary positions need an even width / heads, not 11",
        ),
        ("exp_transformer_fr", ["--data", ""], "--data is empty"),
        ("exp_transformer_fr", ["--replicas", "0"], "--replicas must be at least 1"),
        (
            "exp_transformer_fr",
            ["--sweep", "lr=1e-3,-1"],
            "--sweep lr=1e-3,-1: '1e-3,-1' is not a list of numbers that",
        ),
        ("exp_gan_curve", ["--betas", "0", "1"], "--betas must be at least 0 and below 1, not 1.0"),
        ("exp_classifier_fashion", ["--widths", "16", "0"], "--widths must be at least 1, not 0"),
        ("exp_gpt_hemingway", ["--vocabulary", "100"], "--vocabulary must be at least 256"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_loaded(tmp_path, monkeypatch, capsys, name, words, message):
    module = importlib.import_module(f"experiments.{name}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "--device", "cpu", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main(name, module.PRESETS, pytest.fail, module.load, module.answers, module.Use)
    told = f"{capsys.readouterr().err} {stop.value.code}"
    assert message in " ".join(re.sub(r"[│╭╮╰╯─]", " ", told).split()) and not list(tmp_path.iterdir())
