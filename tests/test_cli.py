"""lib/run/cli.py: every wrong command line ends with one clear message and the right exit status."""

import dataclasses
import errno
import io
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tyro.conf import Positional

from lib import run, sound
from lib.answers import Document, Sound, Text
from lib.faults import CheckpointError, DataError, RunError
from lib.run import cli

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Args(run.Args):
    width: int = 64
    heads: int = 4

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"--width {self.width} is not a multiple of --heads {self.heads}")


@dataclass(frozen=True)
class Use(run.Typed):
    """Say something."""

    beam: run.Count = 1


@dataclass(frozen=True)
class Draw(run.Use):
    """Draw something."""

    n: run.Count = 3
    out: run.NewFile = Path("out.png")


@dataclass(frozen=True)
class Way(run.Use):
    """Go from one to the other."""

    pictures: Positional[tuple[str, str]] = ("0", "1")
    share: run.Share = 0.5


PRESETS = {"small": Args(), "book": Args(steps=36_900, width=256), "best": Args(steps=30_000)}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory and cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def call(monkeypatch):
    """Runs `main` with some words; returns ("train" or "sample", the parsed configuration) of the first call."""

    def main(*words, fault=None, kind=Use, typed="", every=False):
        seen = []

        def act(kind):
            def do(args):
                seen.append((kind, args))
                if fault:
                    raise fault

            return do

        def answers(use, model):
            assert model is args
            act("sample")(use)
            yield Text(f"{use.beam} beams")

        args = Args(width=8)
        monkeypatch.setattr(sys, "argv", ["exp_toy", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        cli.main("exp_toy", PRESETS, act("train"), lambda path, args_: args, answers, kind, otherwise=PRESETS["small"])
        return seen if every else seen[0]

    return main


@pytest.fixture
def fails(call, capsys):
    """Exit status and message of a wrong command line, free of the frame that tyro draws around it."""

    def check(*words, **options):
        with pytest.raises(SystemExit) as stop:
            call(*words, **options)
        status, text = (1, stop.value.code) if isinstance(stop.value.code, str) else (stop.value.code, "")
        text += capsys.readouterr().err
        return status, " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())

    return check


def started(path, **flags):
    """A run directory of the toy experiment with one checkpoint's worth of history."""
    source = Path("exp_toy.py")
    source.write_text("")
    here = run.Run(Args(run=path, **flags), "exp_toy", source)
    here.close()
    return here.path


# ---- what is right ----


def test_presets_and_flags(call):
    assert call() == ("train", PRESETS["small"])
    assert call("small") == ("train", PRESETS["small"])
    assert call("book", "--steps", "7", "--device=cpu") == ("train", Args(steps=7, width=256, device="cpu"))
    assert call("--data", "a b/c'est.tsv")[1].data == "a b/c'est.tsv"


def test_data_is_found_again_from_another_folder(call):
    """A name stays a name, also where a folder is called so."""
    Path("default").mkdir()
    Path("mine.tsv").write_text("")
    args = call("--data", "mine.tsv", "--data-dir", "default", "--run", "here")[1]
    assert (args.data, args.data_dir, args.run) == (str(Path.cwd() / "mine.tsv"), Path.cwd() / "default", Path("here"))
    assert [call("--data", data)[1].data for data in ("default", "no/such", "tatoeba")] == [
        "default", "no/such", "tatoeba",
    ]  # fmt: skip
    stored = started(Path("older"), data="mine.tsv")  # by code that did not make paths whole
    assert json.loads((stored / "config.json").read_text())["data"] == "mine.tsv"
    assert call("--resume", "--run", "older", "--data", "mine.tsv")[1].data == str(Path.cwd() / "mine.tsv")


def test_sample_gets_its_text_whole(call, fails):
    text = "C'est l'été, n'est-ce pas ? \"Oui\" -- $HOME *"
    assert call("sample", text, "--beam", "4") == call("sample", "--beam", "4", text) == ("sample", Use(text, 4))
    assert call("sample", "--text", text, "--beam", "4") == ("sample", Use(text, 4))
    for word in ("--text", "--prompt"):
        assert call("sample", word, "-x", "--beam", "2") == call("sample", "--beam", "2", word, "-x")
        assert call("sample", word, "-x")[1] == Use("-x")
        assert fails("sample", word) == (2, f"error: {word}: a text is missing")
        for odd in (text, "", "-1", "--beam", "-- x"):
            assert call("sample", f"{word}={odd}", "--beam", "2") == ("sample", Use(odd, 2))


def test_what_is_typed_is_answered_line_by_line(call, capsys):
    """Until an empty line, or the end of what is piped in."""
    for typed in ("a\n b \n\nc\n", "a\n b "):
        uses = [use for _, use in call("sample", "--beam", "4", typed=typed, every=True)]
        assert uses == [Use("a", 4), Use(" b ", 4)]
        told = capsys.readouterr()
        assert told.out == "4 beams" * 2 and told.err == "One text a line; an empty line ends.\n"
    assert call("sample", typed="\n", every=True) == []


def test_what_was_said_is_remembered_by_what_remembers(call):
    @dataclass(frozen=True)
    class Talk(Use):
        earlier: tuple[str, ...] = ()

        def after(self, said):
            return dataclasses.replace(self, earlier=(*self.earlier, self.text, said))

    uses = [use for _, use in call("sample", typed="a\nb\n", every=True, kind=Talk)]
    assert [use.earlier for use in uses] == [(), ("a", "1 beams")]


def test_verbs(fails):
    """The first one where none is named."""
    kind = Draw | Way

    for words, wanted in (
        ([], Draw()),
        (["--n", "5"], Draw(n=5)),
        (["draw", "--n", "5", "--run", "here"], Draw(n=5, run=Path("here"))),
        (["way", "3", "x.png", "--share", "1"], Way(("3", "x.png"), 1.0)),
    ):
        assert cli.asked("exp_toy", kind, words) == wanted
    assert fails("sample", "--help", kind=kind)[0] == 0
    status, text = fails("sample", "--run", "here", "way", "3", "4", kind=kind)
    assert status == 2 and "the verb comes first: exp_toy sample way" in text
    status, text = fails("sample", "wya", "3", kind=kind)
    assert status == 2 and "wya" in text and "way" in text


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--n", "0"], "--n must be at least 1, not 0"),
        (["way", "--share", "0"], "--share must be above 0 and at most 1"),
        (["way", "--share", "1.1"], "--share must be above 0 and at most 1"),
        (["way", "--share", "nan"], "--share must be above 0 and at most 1"),
        (["--out", "."], "--out . is a folder: give a file's name, such as out.png"),
        (["--out", "nowhere/x.png"], "--out nowhere/x.png: there is no folder nowhere"),
        (["--out", "x"], "--out x needs an ending, such as .png"),
    ],
)
def test_numbers_out_of_their_bounds_and_files_that_cannot_be_written(fails, words, fault):
    """And help says what the bounds are."""
    status, text = fails("sample", *words, kind=Draw | Way)
    assert status == 2 and fault in text


def test_help_says_what_the_bounds_are(call, capsys):
    with pytest.raises(SystemExit) as stop:
        call("sample", "--help")
    assert not stop.value.code and "--beam INT, at least 1" in capsys.readouterr().out


@pytest.mark.parametrize("chosen", ["", "mine"])
def test_compiled_graphs_are_kept(tmp_path, chosen):
    """Even though importing torch and the library first may already settle where they go."""
    code = "import torch, lib.random; from torch._inductor.codecache import cache_dir; print(cache_dir())"
    env = {**os.environ, "PUREGEN_CACHE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    env.pop("TORCHINDUCTOR_CACHE_DIR", None)
    env |= {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / chosen)} if chosen else {}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(tmp_path / (chosen or "inductor"))


# ---- what is wrong ----


@pytest.mark.parametrize(
    ("word", "meant"), [("smal", "small"), ("bok", "book"), ("bets", "best"), ("sampel", "sample")]
)
def test_unknown_preset(fails, word, meant):
    status, text = fails(word)
    assert status == 2 and word in text and f"did you mean {meant}?" in text


@pytest.mark.parametrize(
    ("flag", "meant"), [("--widht", "--width"), ("--step", "--steps"), ("--log-evry", "--log-every")]
)
def test_unknown_flag(fails, flag, meant):
    status, text = fails(flag, "3")
    assert status == 2 and flag in text and f"{meant} " in text


def test_what_is_typed_and_no_text_is_told(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff\n"), "utf-8"))
    with pytest.raises(RunError, match="what is typed is not utf-8"):
        cli.sample(Use(), lambda use: iter(()))


def test_serve_takes_no_flags(fails):
    status, text = fails("serve", "--run", "here")
    assert status == 2 and "stands in the requests" in text
    assert "did you mean serve?" in fails("serv")[1]


def test_unknown_flag_of_sample(fails):
    status, text = fails("sample", "--baem", "3")
    assert status == 2 and "--baem" in text and "--beam" in text and "exp_toy sample" in text


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--steps", "many"], ["--steps", "many"]),
        (["--device", "tpu"], ["--device", "tpu", "cuda"]),
        (["--steps"], ["--steps"]),
        (["small", "book"], ["book"]),
    ],
)
def test_wrong_value(fails, words, parts):
    status, text = fails(*words)
    assert status == 2 and all(part in text for part in parts)


@pytest.mark.parametrize("words", [["--width", "100", "--heads", "7"], ["book", "--heads", "7"]])
def test_heads_that_do_not_divide_the_width(fails, words):
    status, text = fails(*words)
    width = 100 if "100" in words else 256
    assert status == 2 and f"--width {width} is not a multiple of --heads 7" in text


@pytest.mark.parametrize("fault", [RunError("such a run"), DataError("no data"), CheckpointError("other leaves")])
@pytest.mark.parametrize("words", [[], ["sample", "x"]])
def test_what_a_person_can_mend_ends_with_one_line(fails, fault, words):
    assert fails(*words, fault=fault) == (1, f"error: {fault}")


@pytest.mark.parametrize("words", [[], ["sample", "x"]])
def test_a_full_disk_is_no_fault_of_ours(fails, call, words):
    fault = OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")
    told = "error: the system refuses it: [Errno 28] No space left on device: 'metrics.jsonl'"
    assert fails(*words, fault=fault) == (1, told)
    with pytest.raises(FileNotFoundError):  # may be one
        call(*words, fault=FileNotFoundError(errno.ENOENT, "No such file", "x"))


def test_what_is_printed_and_not_read(tmp_path):
    """`just sample ... | head -1` ends without a word."""
    code = "from tests.test_cli import *; import lib.run.cli as cli; sys.argv = ['exp_toy', 'sample', 'x']\n"
    code += "said = lambda use, model: (Text('a line\\n') for _ in range(10**5))\n"
    code += "cli.main('exp_toy', PRESETS, None, lambda path, args: None, said, Use, otherwise=PRESETS['small'])"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdout=-1, stderr=-1) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_byte_order_mark_that_is_piped_in(call):
    assert call("sample", typed="\ufeffa\nb\n")[1].text == "a"


def test_ctrl_c_while_the_imports_run():
    command = [sys.executable, "-X", "importtime", "-m", "experiments", "exp_gan_curve", "--help"]
    with subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1) as process:
        assert any(b"torch." in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == -signal.SIGINT


def test_ctrl_c_and_our_own_faults(fails, call):
    assert fails(fault=KeyboardInterrupt())[0] == 130
    with pytest.raises(ZeroDivisionError):
        call(fault=ZeroDivisionError())


# ---- resume ----


def test_resume_takes_the_configuration_of_the_run(call):
    path = started(Path("here"), width=32, seed=5, steps=10)
    kind, args = call("--resume", "--run", "here")
    assert kind == "train" and args == Args(width=32, seed=5, steps=10, resume=True, run=path)
    args = call("--resume", "--run=here", "--steps", "20", "--log-every", "1", "--width", "32")[1]
    assert args == Args(width=32, seed=5, steps=20, log_every=1, resume=True, run=path)


def test_resume_takes_the_latest_run(call, fails):
    status, text = fails("--resume")
    assert status == 1 and "no run of exp_toy" in text
    for seed, age in ((1, 3), (2, 2), (3, 4)):
        os.utime(started(None, seed=seed) / "config.json", (10**9 - age, 10**9 - age))
    assert call("--resume")[1].seed == 2


def test_resume_with_another_configuration(fails):
    started(Path("here"), width=32, seed=5)
    status, text = fails("--resume", "--run", "here", "--width", "64", "--seed", "6", "--steps", "7")
    assert status == 1
    assert (
        "here was started with another configuration" in text and "width: 32 -> 64" in text and "seed: 5 -> 6" in text
    )
    assert "steps" not in text
    status, text = fails("book", "--resume", "--run", "here")
    assert status == 1 and "width: 32 -> 256" in text and "seed: 5 -> 0" in text


def test_resume_judges_flags_beside_those_of_the_run(call, fails):
    """90 is no multiple of the preset's 4 heads, but the run has 3."""
    started(Path("here"), width=90, heads=3)
    assert call("--resume", "--run", "here", "--width", "90")[1].heads == 3
    status, text = fails("--resume", "--run", "here", "--width", "93")
    assert status == 1 and "width: 90 -> 93" in text


def test_a_run_of_another_experiment(fails):
    Path("other").mkdir()
    Path("other", "config.json").write_text('{"steps": 3, "colours": 256}')
    status, text = fails("--resume", "--run", "other")
    assert status == 1 and "other is a run of another experiment or version" in text and "colours" in text
    status, text = fails("--resume", "--run", "nowhere")
    assert status == 1 and "nowhere is not a run directory" in text


# ---- python -m experiments ----


def module(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["experiments", *words])
    runpy.run_module("experiments", run_name="__main__")


@pytest.mark.parametrize("word", ["exp_transformer_f", "transformer_fr", "exp_transfomer_fr"])
def test_unknown_experiment(monkeypatch, capsys, word):
    with pytest.raises(SystemExit) as stop:
        module(monkeypatch, word, "--steps", "3")
    text = capsys.readouterr().err
    assert stop.value.code == 2 and repr(word) in text and "did you mean exp_transformer_fr?" in text


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["sample"]])
def test_without_a_name_there_is_a_list(monkeypatch, capsys, words):
    with pytest.raises(SystemExit) as stop:
        module(monkeypatch, *words)
    lines = capsys.readouterr().out.splitlines()
    assert not stop.value.code and len(lines) == 2 + len(list((ROOT / "experiments").glob("exp_*.py")))
    assert "  exp_transformer_fr      English to French with the 2017 Transformer" in lines
    assert all(len(line) < 120 and line.split()[1:] for line in lines[2:])


def test_a_copied_file_is_an_experiment_of_its_own(tmp_path):
    mine = tmp_path / "exp_mine.py"
    mine.write_text((ROOT / "experiments" / "exp_gan_curve.py").read_text())
    words = [sys.executable, str(mine), "--steps", "1", "--device", "cpu", "--compile", "off"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["exp_mine"]
    assert "next: just sample exp_mine" in done.stdout
    bars = [line for line in done.stderr.splitlines() if "step" in line]
    assert bars and all(line.count("%|") <= 1 for line in bars)  # in a log each time has a line of its own


def test_every_experiment_is_known_by_its_name():
    folder = ROOT / "experiments"
    assert cli.nearest("exp_transformer_fr", folder) == "exp_transformer_fr"


def test_sounds_and_documents_are_saved(tmp_path, capsys):
    samples = torch.linspace(-1, 1, 50)
    cli.show(Sound(samples, 8000, tmp_path / "song.wav", "four voices"))
    cli.show(Document(b"\xff\r\n", tmp_path / "song.mid"))
    cli.show(Document(b"", tmp_path / "song.xml", None))
    assert (tmp_path / "song.wav").read_bytes() == sound.wav(samples, 8000)
    assert (tmp_path / "song.mid").read_bytes() == b"\xff\r\n" and (tmp_path / "song.xml").exists()
    assert capsys.readouterr().out == f"four voices: {tmp_path / 'song.wav'}\n{tmp_path / 'song.mid'}\n"
    for answer in (Sound(samples, 8000, tmp_path / "no" / "no" / "song.wav"), Document(b"", tmp_path)):
        with pytest.raises(RunError, match=f"cannot write {answer.file}: "):
            cli.show(answer)
