"""Every experiment as a user runs it: train, stop, resume and use the result, on a few made-up pairs."""

import dataclasses
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch._dynamo.utils import counters

from experiments import exp_transformer_fr as exp
from lib import checkpoint, random, run, tree
from lib.data import packing, pairs, tokens
from lib.models import seq2seq
from lib.run import cli, settings
from lib.tasks import doubt, robust
from lib.transform import jit
from tests.flags import flags

ROOT = Path(__file__).parent.parent
TINY = {
    "width": 16, "ff": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "rows": 2, "length": 32, "beams": 2,
    "vocabulary": 300, "warmup": 2, "compile": "off", "precision": "fp32", "device": "cpu", "log_every": 1,
}  # fmt: skip
HARD = "C'est l'été, n'est-ce pas ? \"Oui\" -- $HOME *"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A TSV of some 60 pairs, chosen so that a few fall into the validation and test splits."""
    who = {"cat": "chat", "dog": "chien", "boy": "garçon", "man": "monsieur", "horse": "cheval", "king": "roi"}
    how = {"small": "petit", "big": "grand", "old": "âgé", "sad": "triste", "tired": "fatigué", "alone": "seul"}
    when = {"today": "aujourd'hui", "again": "encore", "here": "ici", "now": "maintenant", "always": "toujours"}
    rows = [
        f"The {a} is {not_}{b} {c}.\tLe {who[a]} {'n' + chr(39) + 'est pas' if not_ else 'est'} {how[b]} {when[c]}."
        for a, b, c, not_ in itertools.product(who, how, when, ("", "not "))
    ]
    parts = pairs.split(pairs.read_tsv("\n".join(rows).encode(), "tiny", "tiny"))
    chosen = [*parts.train[::6][:50], *parts.val[:3], *parts.test[:3]]
    path = tmp_path_factory.mktemp("data") / "tiny.tsv"
    path.write_text("".join(f"{p.source}\t{p.target}\n" for p in chosen), encoding="utf-8")
    return path


def as_user(*words, cache):
    """`python -m experiments exp_transformer_fr ...`, as `just` calls it."""
    command = [sys.executable, "-m", "experiments", exp.NAME, *words]
    environment = {**os.environ, "PUREGEN_CACHE": str(cache)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def finished(data, device, tmp_path_factory):
    """The directory and the output of a run of four steps, made by a command."""
    folder = tmp_path_factory.mktemp("finished")
    words = flags(data=data, steps=4, run=folder / "run", eval_every=2, **{**TINY, "device": device.type})
    return folder / "run", as_user("small", *words, cache=folder / "cache")


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """The same command in this process, in a folder of its own; returns its status, output and error output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))

    def main(*words):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [exp.NAME, *(str(word) for word in words)])
        try:
            cli.main(exp.NAME, exp.PRESETS, exp.train, exp.load, exp.answers, exp.Use)
            status, message = 0, ""
        except SystemExit as stop:
            status, message = (1, stop.code) if isinstance(stop.code, str) else (stop.code, "")
        told = capsys.readouterr()
        return status, told.out, told.err + message

    return main


# ---- a whole run ----


@pytest.mark.device
def test_what_a_run_prints(finished, data, device):
    path, done = finished
    train, val, test = (len(part) for part in pairs.load(str(data)))
    assert (train, val, test) == (50, 3, 3)
    assert re.search(r"^held out +n +BLEU +chrF$", done.stdout, flags=re.MULTILINE)
    assert re.search(r"^tiny +3 +\d+\.\d +\d+\.\d$", done.stdout, flags=re.MULTILINE)
    assert re.search(r"^BLEU nrefs:1\|.*\|version:", done.stdout, flags=re.MULTILINE)
    assert re.search(r"^chrF nrefs:1\|.*\|version:", done.stdout, flags=re.MULTILINE)
    assert f"run: {path}\n" in done.stdout
    assert re.search(rf"^next: just sample {exp.NAME} 'The [a-z ]+\.'\n      just tb$", done.stdout, re.MULTILINE)
    assert f"50 training pairs, 3 for validation; {device}, torch.float32" in done.stdout
    assert "* The " in done.stdout and "  The " in done.stdout  # translations of sentences seen and not seen
    assert "4/4" in done.stderr and "Traceback" not in done.stderr


def test_nothing_is_held_out_for_the_test(finished):
    path, _ = finished
    translator = exp.load(path, run.load_config(path, exp.Args))
    scores, lines = exp.evaluate(translator, pairs.Splits([], [], []), exp.Args())
    assert scores == {} and not [line for line in lines if "kept" in line]


@pytest.mark.parametrize("vocabulary", [1, 269])
def test_a_vocabulary_that_cannot_spell(call, vocabulary):
    status, _, err = call("--vocabulary", vocabulary)
    assert status and f"--vocabulary {vocabulary}: at least 270, which are bytes and signs" in err


def test_texts_that_are_there_often_are_encoded_as_others(vocabularies):
    def encoded(texts):
        return exp.encoded((texts, texts), vocabularies, 32)

    texts = ["The cat.", "is here", "The cat.", "the cat."]
    alone = [encoded([text]) for text in texts]
    assert encoded(texts) == packing.Tokens([one.source[0] for one in alone], [one.target[0] for one in alone])


def test_what_a_run_leaves(finished):
    path, _ = finished
    assert [p.name for p in (path / "checkpoints").iterdir()] == ["step-4.safetensors"]
    assert (path / "experiment.py").read_text() == Path(exp.__file__).read_text()
    state = load_file(path / "checkpoints" / "step-4.safetensors")
    assert state["step"] == 4 and "params.embed.source" in state and "params.embed.target" not in state
    result = json.loads((path / "result.json").read_text())
    typed = {f"tiny/bleu_{name}" for name in robust.TYPED}
    assert result.keys() - {"tiny/doubt"} == {"tiny/bleu", "tiny/chrf", *typed}  # all translations are bad, or most
    assert all(0 <= x <= 100 for x in result.values())
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2, 3, 4]
    assert not list(path.rglob("*.tmp")) and not list(path.rglob("*.pkl")) and not list(path.rglob("*.pt"))


def test_what_tensorboard_shows(finished):
    path, _ = finished
    found = EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()
    tags = found.Tags()
    assert set(tags["scalars"]) - {"final/tiny/doubt"} == {
        "train/loss", "train/lr", "grad/norm", "val/loss", "perf/tokens_per_second",
        "final/tiny/bleu", "final/tiny/chrf",
        *(f"final/tiny/bleu_{name}" for name in robust.TYPED),
    }  # fmt: skip
    assert [e.step for e in found.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [e.step for e in found.Scalars("val/loss")] == [2, 4]
    assert [e.step for e in found.Scalars("perf/tokens_per_second")] == [2, 3, 4]  # the first step is not counted
    assert [e.step for e in found.Images("attention/cross")] == [2, 4]
    assert {"samples/translations/text_summary", "samples/final/text_summary"} <= set(tags["tensors"])
    assert "hparams" in found.summary_metadata["_hparams_/experiment"].plugin_data.plugin_name
    assert {p.parent for p in path.rglob("*tfevents*")} == {path}  # all in one run


def test_bad_data_is_told_before_a_run_begins(call, tmp_path):
    (tmp_path / "bad.tsv").write_text("a\tb\nc\n")
    status, _, err = call("--data", "bad.tsv", "--run", "here", *flags(steps=2, **TINY))
    assert status == 1 and "bad.tsv, line 2:" in err and not Path("here").exists()
    status, _, err = call("--data", "tatoba", *flags(steps=2, **TINY))
    assert status == 1 and "tatoba" in err and not Path("runs").exists()


def test_a_corpus_too_small_for_a_batch(call, tmp_path):
    (tmp_path / "two.tsv").write_text("a\tb\nc\td\n")
    status, _, err = call("--data", "two.tsv", "--run", "here", *flags(steps=2, **TINY))
    assert status == 1 and err.splitlines()[-1] == "error: 2 pairs do not fill one batch of 2 rows of 32 tokens"


@pytest.mark.device
def test_a_loss_that_is_not_finite(call, data):
    status, _, err = call("--data", data, "--run", "here", *flags(steps=9, save_every=1, lr=1e30, **TINY))
    found = re.search(r"error: the loss or its gradient is (nan|inf) at step (\d); last good checkpoint: (\S+)$", err)
    assert status == 1 and found
    assert found[3] == f"here/checkpoints/step-{int(found[2]) - 1}.safetensors" and checkpoint.load_meta(Path(found[3]))
    assert not Path("here/result.json").exists()


# ---- resume ----


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """Six steps without a break, with everything that a resumed run could get wrong: dropout, averages, two tables."""
    args = exp.Args(
        data=str(data), run=tmp_path_factory.mktemp("straight") / "run", steps=6, save_every=3, eval_every=0,
        dropout=0.1, ema_decay=0.9, shared=False, test_sentences=2, **{**TINY, "beams": 1, "rows": 6},
    )  # fmt: skip
    exp.train(args)
    return args


def test_a_run_from_before_positions_could_be_chosen_has_waves(tmp_path):
    stored = dataclasses.asdict(exp.PRESETS["small"])
    del stored["position"]
    (tmp_path / "config.json").write_text(json.dumps(stored, default=str))
    assert settings.load_config(tmp_path, exp.Args).block().position == "sinusoidal"
    assert exp.PRESETS["small"].block().position == "rotary"


def saved(args, n):
    return load_file(args.run / "checkpoints" / f"step-{n}.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.device
def test_a_run_killed_and_resumed_is_the_run_bit_for_bit(straight, tmp_path):
    args = dataclasses.replace(straight, run=tmp_path / "run", resume=True)
    shutil.copytree(straight.run, args.run)
    (args.run / "result.json").unlink()
    newest = args.run / "checkpoints" / "step-6.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])  # half written, as no crash of ours leaves it
    exp.train(args)
    assert same(saved(args, 6), saved(straight, 6))
    assert not same(saved(args, 6), saved(straight, 3))
    assert (args.run / "result.json").read_text() == (straight.run / "result.json").read_text()


@pytest.mark.device
def test_ctrl_c_saves_and_resume_goes_on(straight, tmp_path, monkeypatch, capsys):
    args = dataclasses.replace(straight, run=tmp_path / "run", save_every=100)
    real = exp.step

    def interrupted(state, batch, **options):
        if state.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return real(state, batch, **options)

    with monkeypatch.context() as patch:
        patch.setattr(exp, "step", interrupted)
        exp.train(args)
    out = capsys.readouterr().out
    assert f"stopped at step 2; go on with: just run {exp.NAME} --resume --run {args.run}" in out
    assert [n for n, _ in checkpoint.steps(args.run / "checkpoints")] == [2]
    assert not (args.run / "result.json").exists()
    exp.train(dataclasses.replace(args, resume=True))
    assert same(saved(args, 6), saved(straight, 6))
    assert (args.run / "result.json").exists()


def test_resume_refuses_another_configuration_or_model(call, straight, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(straight.run, path)
    status, _, err = call("--resume", "--run", path, "--width", "32", "--dropout", "0.2")
    assert status == 1 and "width: 16 -> 32" in err and "dropout: 0.1 -> 0.2" in err
    (path / "result.json").unlink()  # killed just before it was done
    newest = path / "checkpoints" / "step-6.safetensors"
    state = load_file(newest)
    state["params.embed.head"] = state["params.embed.head"][:, :8]
    state["params.extra"] = state.pop("params.decoder.norm.scale")
    checkpoint.save_tree(newest, state, {"step": 6})
    status, _, err = call("--resume", "--run", path)
    assert status == 1 and "missing: params.decoder.norm.scale" in err and "unexpected: params.extra" in err
    assert re.search(r"params\.embed\.head: \(\d+, 8\).* in the file, \(\d+, 16\).* in the model", err)


def test_what_only_the_final_evaluation_needs_may_be_changed(call, straight, tmp_path):
    """A run whose evaluation failed is finished with other flags, not trained again."""
    path = tmp_path / "run"
    shutil.copytree(straight.run, path)
    (path / "result.json").unlink()
    status, out, _ = call("--resume", "--run", path, "--beams", "2", "--test-sentences", "1")
    assert status == 0 and re.search(r"^tiny +1 ", out, flags=re.MULTILINE) and (path / "result.json").exists()
    assert json.loads((path / "config.json").read_text())["beams"] == 2


# ---- using a run ----


def test_sample_as_a_user(finished, call, tmp_path):
    path, _ = finished
    done = as_user("sample", "--run", str(path), "--text", HARD, cache=tmp_path / "cache")
    assert "Traceback" not in done.stderr
    status, out, _ = call("sample", "--run", path, "--text", HARD)
    assert status == 0 and done.stdout == out and len(out.splitlines()) == 1


def test_sample_finds_the_latest_finished_run(finished, call):
    path, _ = finished
    status, _, err = call("sample", "--text", "x")
    assert status == 1 and f"no finished run of {exp.NAME}" in err and f"just run {exp.NAME}" in err
    folder = Path("runs", exp.NAME)
    shutil.copytree(path, folder / "a")
    shutil.copytree(path, folder / "b", ignore=shutil.ignore_patterns("result.json", "checkpoints"))
    assert call("sample", "--text", "x") == call("sample", "--text", "x", "--run", path)


def test_the_averaged_parameters_are_used_where_there_are_any(straight):
    used, path = exp.load(straight.run, straight).params, straight.run / "checkpoints" / "step-6.safetensors"
    averaged, last = (checkpoint.load_tree(path, used, prefix=prefix) for prefix in ("ema", "params"))
    assert same(tree.flatten(used), tree.flatten(averaged)) and not same(tree.flatten(used), tree.flatten(last))


def test_beams_are_shown_with_their_scores(finished, call):
    status, out, _ = call("sample", "--run", finished[0], "--text", "The cat is small.", "--beam", "3")
    scores = [float(re.match(r" *(-\d+\.\d{3})  ", line)[1]) for line in out.splitlines()]
    assert status == 0 and len(scores) == 3 and scores == sorted(scores, reverse=True)


@pytest.mark.device
def test_sampling(finished, call):
    def draw(*words):
        status, out, _ = call(
            "sample", "--run", finished[0], "--text", "The cat is small.", "--temperature", "1.5", *words
        )
        assert status == 0
        return out

    assert draw() == draw("--seed", "0") != draw("--seed", "1")
    assert draw("--top-k", "1") == call("sample", "--run", finished[0], "--text", "The cat is small.")[1]
    status, _, err = call("sample", "--run", finished[0], "--text", "x", "--temperature", "1", "--beam", "2")
    assert status == 2 and "--beam" in err and "--temperature" in err


def test_a_file_line_by_line(finished, call):
    Path("lines.txt").write_text('L\'été ? "Oui"\n\nThe cat is small.\nL\'été ? "Oui"\n', encoding="utf-8")
    status, out, _ = call("sample", "--run", finished[0], "--file", "lines.txt")
    lines = out.splitlines()
    assert status == 0 and len(lines) == 4 and lines[1] == "" and lines[0] == lines[3] != ""
    assert lines[0] == call("sample", "--run", finished[0], "--text", 'L\'été ? "Oui"')[1].strip()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_line_of_a_file_has_one_answer(finished, call, encoding):
    """Whatever stands in it: what is no line end cuts nothing, and no mark stays in the first line."""
    Path("lines.txt").write_bytes("The cat is small.\r\nThe\x0bdog\u2028is\x85old.\r\n\r\n".encode(encoding))
    status, out, _ = call("sample", "--run", finished[0], "--file", "lines.txt")
    Path("plain.txt").write_text("The cat is small.\nThe dog is old.\n\n")
    assert status == 0 and out == call("sample", "--run", finished[0], "--file", "plain.txt")[1]
    assert len(out.split("\n")) == 4 and out.endswith("\n\n")


@pytest.mark.parametrize("typed", ["The cat is small.\nThe dog.\n\nnot this\n", "The cat is small.\nThe dog."])
def test_lines_typed_at_a_prompt(finished, call, monkeypatch, typed):
    """An empty line ends, and so does the end of what is piped in."""
    for more in ([], ["--beam", 2, "--attention", "out.png"]):  # of several beams the best one is shown
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        status, out, _ = call("sample", "--run", finished[0], *more)
        assert status == 0 and len(out.splitlines()) == 2
    assert not Path("out.png").exists()


def test_the_attention_is_drawn(finished, call):
    words = ["sample", "--run", finished[0], "--text", "The $cat$ is 你好 <pad> small.", "--attention", "out.png"]
    assert call(*words)[0] == 0
    picture = Path("out.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and len(picture) > 5000


WHATEVER = {
    "long": "The cat is small. " * 9, "no end": "word " * 50, "one word": "x" * 150, "mark": "?", "emoji": "👩‍👩‍👧",
    "Chinese": "今天天气很好" * 5, "Arabic": "مرحبا بالعالم", "special": "<pad></s>", "number": "-1", "flag": "--x",
}  # fmt: skip


@pytest.mark.parametrize("name", WHATEVER)
def test_whatever_text_is_answered(finished, call, name):
    status, out, err = call("sample", "--run", finished[0], f"--text={WHATEVER[name]}")
    unknown = name in ("Chinese", "Arabic")
    assert status == 0 and len(out.splitlines()) == (0 if unknown else 1)
    assert ("not translated: the model has hardly seen this script" in err) == unknown


def test_lines_in_an_unknown_script_stay_empty(finished, call):
    Path("lines.txt").write_text("The cat is small.\n今天天气很好\n\nمرحبا بالعالم\n", encoding="utf-8")
    status, out, err = call("sample", "--run", finished[0], "--file", "lines.txt")
    assert status == 0 and len(out.splitlines()) == 4 and out.splitlines()[1:] == [""] * 3
    assert "warning: lines 2, 4 of lines.txt not translated: the model has hardly seen this script" in err


def test_doubtful_translations_are_marked(finished, call, monkeypatch):
    monkeypatch.setattr(doubt, "reasons", lambda _, texts, found: ["it repeats itself" * ("big" in t) for t in texts])
    Path("lines.txt").write_text("The cat is small.\n\nThe dog is old. The cat is big.\nIt is big.\n", encoding="utf-8")
    assert "doubtful: lines 3, 4 of lines.txt\n" in call("sample", "--run", finished[0], "--file", "lines.txt")[2]
    told = {
        text: call("sample", "--run", finished[0], "--text", text)[2]
        for text in ("a big cat", "It is. It is big.", "a")
    }
    assert "doubtful: it repeats itself\n" in told["a big cat"] and "doubtful" not in told["a"]
    assert "doubtful, 'It is big.': it repeats itself\n" in told["It is. It is big."]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", ""], "empty"),
        (["--text", " \n"], "empty"),
        (["--file", "missing.txt"], "missing.txt"),
        (["--file", "latin1.txt"], "latin1.txt"),
        (["--file", "empty.txt"], "nothing to translate: empty.txt is empty"),
        (["--file", "blank.txt"], "nothing to translate: blank.txt is empty"),
        (["--file", "."], "cannot read .: Is a directory"),
        (["--text", "caf\udce9"], "not UTF-8: character 3 of"),
        (["--text", "x", "--beam", "0"], "beam"),
        (["--text", "x", "--temperature", "1", "--top-k", "-1"], "top-k"),
        (["--text", "x", "--attention", "no/such/folder/out.png"], "out.png"),
        (["--text", "x", "--attention", "out.docx"], "out.docx"),
    ],
)
def test_what_cannot_be_done_is_said(finished, call, words, message):
    Path("latin1.txt").write_bytes("été".encode("latin-1"))
    Path("empty.txt").write_bytes(b"")
    Path("blank.txt").write_text("\ufeff \n\n", encoding="utf-8")
    status, _, err = call("sample", "--run", finished[0], *words)
    assert status in (1, 2) and message in err


def test_a_run_that_cannot_be_used(finished, call, tmp_path):
    assert "nowhere is not a run directory" in call("sample", "--run", "nowhere", "--text", "x")[2]
    shutil.copytree(finished[0], "here", ignore=shutil.ignore_patterns("tokenizer*"))
    status, _, err = call("sample", "--run", "here", "--text", "x")
    assert status == 1 and "here has no readable tokenizers" in err
    shutil.copytree(finished[0], "there", ignore=shutil.ignore_patterns("checkpoints"))
    status, _, err = call("sample", "--run", "there", "--text", "x")
    assert status == 1 and "no checkpoint in there/checkpoints" in err


def test_typography_makes_no_difference(finished, call):
    """The corpora have straight quotes and composed accents: what a person pastes is read the same way."""
    plain = call("sample", "--run", finished[0], "--beam", "2", "--text", 'It\'s "été"...')
    fancy = call("sample", "--run", finished[0], "--beam", "2", "--text", "It\u2019s \u201ce\u0301te\u0301\u201d\u2026")
    assert plain[0] == 0 and plain[1] == fancy[1]


# ---- the step ----


@pytest.fixture(scope="module")
def vocabularies():
    return tokens.train_pair(["the cat is here"] * 3, ["le chat est ici"] * 3, 300, shared=True)


@pytest.mark.parametrize("name", exp.PRESETS)
def test_presets_construct(name, vocabularies):
    args = exp.PRESETS[name]
    cfg = exp.model_config(args, vocabularies)
    params = seq2seq.init(random.key(0, device="meta"), cfg)  # shapes alone
    least = 2e6 if name == "small" else 5e6
    assert tree.size(params) > least and ("head" in params["embed"]) == (not args.shared)
    _, schedule = exp.optimizer(args)
    rates = [float(schedule(torch.tensor(n))) for n in (0, args.warmup, args.steps - 1)]
    assert 0 <= rates[0] < rates[1] > rates[2] >= 0 and 1e-4 < rates[1] < 2e-2
    assert 0 < args.warmup < args.steps and args.save_every <= args.steps


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_every_step_drops_other_activations(vocabularies, dropout):
    args = exp.Args(dropout=dropout, **TINY)
    cfg = exp.model_config(args, vocabularies)
    state = exp.init_state(random.key(1), cfg, args)
    corpus = packing.Tokens([[5, 6, 7, tokens.END]], [[8, 9, 10]])
    batch = packing.collate(corpus, [[0]], 8, tokens.START, tokens.END)
    losses = []
    for n in (0, 0, 1):
        here = state._replace(step=torch.tensor(n, dtype=torch.int32))
        losses.append(exp.step(here, batch, cfg=cfg, args=args, dtype=torch.float32)[1]["train/loss"])
    assert losses[0] == losses[1] and (losses[0] != losses[2]) == (dropout > 0)


def test_the_step_is_one_graph_and_equals_eager(data, vocabularies):
    args = exp.Args(steps=8, dropout=0.1, ema_decay=0.9, **TINY)
    cfg = exp.model_config(args, vocabularies)
    corpus = exp.encoded(list(pairs.read_tsv(data.read_bytes(), "tiny", "tiny")), vocabularies, 48)
    collate = partial(packing.collate, length=48, start=tokens.START, end=tokens.END)
    batches = list(itertools.islice(packing.batches(corpus, random.key(3), args.rows, collate, 48), 3))
    step = partial(exp.step, cfg=cfg, args=args, dtype=torch.float32)
    compiled = jit(step, backend="aot_eager")
    state, same = (exp.init_state(random.key(1), cfg, args) for _ in range(2))
    torch._dynamo.reset()
    counters.clear()
    for batch in batches:
        state, out = step(state, batch)
        same, again = compiled(same, batch)
        torch.testing.assert_close([*again.values()], [*out.values()], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tree.leaves(same), tree.leaves(state), atol=1e-5, rtol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1 and counters["graph_break"] == {}
    assert same.step == 3
    torch._dynamo.reset()
