"""Exactness: a run that was stopped, however, ends as if it had not been; one key gives one result everywhere."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from torch.func import vmap

from experiments import exp_assistant as assistant
from experiments import exp_autoencoder_digits as autoencoder
from experiments import exp_bert_entities as named
from experiments import exp_bert_sentiment as sentiment
from experiments import exp_cgan_glasses as cgan
from experiments import exp_classifier_fashion as classifier
from experiments import exp_cyclegan_hair as cyclegan
from experiments import exp_dcgan_faces as dcgan
from experiments import exp_diffusion_flowers as diffusion
from experiments import exp_gan_curve as curve
from experiments import exp_gan_fashion as fashion
from experiments import exp_gan_multiples as multiples
from experiments import exp_gpt2 as gpt2
from experiments import exp_gpt2_classify as classify
from experiments import exp_gpt_hemingway as gpt
from experiments import exp_lstm_novel as lstm
from experiments import exp_mixture_points as mixture
from experiments import exp_musegan_bach as musegan
from experiments import exp_text2image_flowers as text2image
from experiments import exp_transformer_fr as transformer
from experiments import exp_transformer_music as music
from experiments import exp_transformer_piano as piano
from experiments import exp_vae_faces as vae
from lib import checkpoint, nn, random, tree
from lib.data import drawing, images, packing, pairs, tokens, typed
from lib.models import bert, smollm
from lib.models import gpt2 as released
from lib.tasks import composer, generated, judge, pianist, writing
from tests.flags import flags as to_flags

ROOT = Path(__file__).parent.parent
HALF = 4
COMMON = {
    "steps": 2 * HALF, "save_every": HALF, "log_every": 1, "eval_every": 2 * HALF, "compile": "off",
    "precision": "fp32", "device": "cpu",
}  # fmt: skip
# All that a resumed run could get wrong: keys, averages, running statistics, schedules, the place in an epoch.
PICTURES = {"dropout": 0.3, "batch": 16}
BERT = {
    "start": "scratch", "width": 16, "heads": 2, "ff": 24, "layers": 1, "rows": 4, "length": 12, "vocabulary": 120,
    "dropout": 0.1,
}  # fmt: skip
SETTINGS = {
    "assistant": (assistant, {"start": "scratch", "requests": 200, "rows": 4, "length": 12, "dropout": 0.1}),
    "bert-entities": (named, {**BERT, "lr": 1e-2}),
    "bert-sentiment": (sentiment, {**BERT, "pretrain_steps": HALF}),
    "autoencoder": (autoencoder, {"hidden": (16,), "bottleneck": 2, "batch": 16, "shift": 1}),
    "cgan": (
        cgan,
        {"size": 16, "faces": 60, "width": 4, "critic_width": 8, "latent": 6, "critic_steps": 2, "batch": 8},
    ),
    "classifier-mlp": (classifier, {"model": "mlp", "hidden": (12, 8), "augment": True, **PICTURES}),
    "classifier-cnn": (classifier, {"model": "cnn", "widths": (4, 6), "augment": True, **PICTURES}),
    "classify": (classify, {"tune": "lora", "rank": 2, "length": 12, "batch": 8}),
    "cyclegan": (
        cyclegan,
        {"size": 16, "faces": 60, "width": 4, "blocks": 1, "disc_width": 4, "disc_downs": 1, "batch": 2, "buffer": 4,
         "flip": True},
    ),
    "dcgan": (dcgan, {"size": 16, "faces": 60, "width": 4, "latent": 6, "batch": 16, "norm": "group", "r1": 1.0}),
    "diffusion": (
        diffusion, {"size": 16, "pictures": 60, "widths": (8, 8), "batch": 8, "samples": 20, "sample_steps": 2},
    ),
    "gan-curve": (curve, {"batch": 4, "generator": (8,), "discriminator": (8,), "points": 6, "dropout": 0.3}),
    "gan-fashion": (
        fashion, {"model": "dcgan", "width": 4, "latent": 6, "kid_samples": 60, "conditional": True, "batch": 16},
    ),
    "gan-multiples": (multiples, {"batch": 4, "generator": (8,), "discriminator": (8,), "k": 7}),
    "gpt": (
        gpt,
        {"width": 16, "heads": 2, "ff": 24, "layers": 1, "rows": 4, "length": 16, "vocabulary": 300, "warmup": 2,
         "dropout": 0.1},
    ),
    "gpt2": (gpt2, {"rows": 4, "length": 16, "scored": 60, "dropout": 0.1}),
    "lstm": (
        lstm, {"embedding": 6, "hidden": 8, "rows": 3, "length": 7, "vocabulary": 300, "dropout": 0.3},
    ),
    "mixture": (
        mixture, {"points": 200, "components": 4, "class_components": 2, "hidden": (8,), "batch": 32},
    ),
    "text2image": (
        text2image,
        {"small": 8, "fine": 8, "width": 16, "heads": 2, "blocks": 1, "widths": (8, 8), "pictures": 60, "batch": 8,
         "prompts": 4},
    ),
    "musegan": (
        musegan,
        {"noise": 4, "temporal": 8, "bar": 16, "least": 8, "critic": 8, "batch": 4, "samples": 4},
    ),
    "music": (
        music,
        {"layers": 1, "width": 16, "heads": 2, "ff": 24, "chord": 6, "head": 12, "rows": 4, "length": 48, "warmup": 2,
         "samples": 2},
    ),
    "piano": (
        piano,
        {"layers": 1, "width": 16, "heads": 2, "ff": 24, "rows": 4, "length": 32, "warmup": 2, "dropout": 0.1},
    ),
    "transformer": (
        transformer,
        {
            "width": 16, "ff": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "rows": 2, "length": 24,
            "vocabulary": 300, "warmup": 2, "beams": 1, "test_sentences": 2, "dropout": 0.1, "ema_decay": 0.9,
            "shared": False,
        },
    ),
    "vae": (vae, {"size": 16, "faces": 60, "width": 4, "code": 6, "batch": 16, "kl_warmup": 6}),
}  # fmt: skip
EACH = pytest.mark.parametrize("name", SETTINGS)


def saved(path, n):
    return load_file(Path(path, "checkpoints", f"step-{n}.safetensors"))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def logged(path, *kinds):
    """(step, values) of the lines of metrics.jsonl, without times; only those whose tags begin with one of `kinds`."""
    found = []
    for line in map(json.loads, Path(path, "metrics.jsonl").read_text().splitlines()):
        values = {tag: value for tag, value in line.items() if tag.startswith(kinds)}
        found += [(line["step"], values)] if values else []
    return found


def diagnosed(path):
    """The steps after which a diagnosis was logged with all its parts."""
    parts = ("gradient_norm/mean", "hessian/largest", "hessian/trace", "update/")  # the noise scale may be inf
    lines = logged(path, "diagnose/")
    assert all(any(part in tag for tag in values) for _, values in lines[:1] for part in parts)
    return sorted({step for step, _ in lines})


# ---- N steps, save, load, N steps ----


def pictures(n, seed):
    """Noise, brighter further down for higher labels."""
    labels = torch.arange(n) % 10
    noise = random.randint(random.key(seed), (n, 1, 28, 28), 0, 80)
    bright = (torch.arange(28) // 3 == labels[:, None]).long()[:, None, :, None] * 150
    return images.Images((noise + bright).to(torch.uint8), labels)


@pytest.fixture(scope="module")
def few_pictures(tmp_path_factory):
    """Every data set of pictures is this one; returns the run of the classifier whose features KID compares."""
    splits = images.Splits("fashion", pictures(100, 1), pictures(40, 2), pictures(60, 3), images.FASHION_NAMES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "load", lambda *_, **__: splits)
        path = tmp_path_factory.mktemp("extractor") / "run"
        classifier.train(classifier.Args(run=path, widths=(4, 6), batch=16, **{**COMMON, "steps": 2, "eval_every": 0}))
        yield path


@pytest.fixture(scope="module")
def few_faces(tmp_path_factory):
    """Of drawn faces few, in a cache of their own; what judges them hardly learns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUREGEN_CACHE", str(tmp_path_factory.mktemp("faces")))
        patch.setattr(drawing, "_cores", lambda: 1)
        patch.setattr(judge, "FACES", judge.FACES._replace(steps=2))
        patch.setattr(judge, "OTHERS", judge.OTHERS._replace(steps=2))
        patch.setattr(generated, "JUDGED", 60)
        patch.setattr(cyclegan, "VAL", 4)
        patch.setattr(cyclegan, "TEST", 4)
        yield


@pytest.fixture(scope="module")
def small_gpt2():
    """GPT-2 of hardly any size, with a tokenizer of bytes."""
    tokenizer = tokens.train_lossless("bpe", "abc", 300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(released, "tokenizer", lambda _: tokenizer)
        patch.setattr(released, "SIZES", {"small": released.Size(1, 16, 2, 0)})
        patch.setattr(released, "VOCABULARY", 300)
        patch.setattr(released, "CONTEXT", 64)
        yield


def unrelated_draws(seed):
    """The global generators differ from run to run: none of them may matter."""
    torch.manual_seed(seed)
    torch.rand(seed)


@EACH
def test_a_run_interrupted_and_resumed_is_the_run_bit_for_bit(
    name,
    call,
    monkeypatch,
    few_pictures,
    few_faces,
    small_gpt2,
    sentences,
    story,
    films,
    tiny_llama,
    tagged,
    songs,
    recital,
):
    exp, flags = SETTINGS[name]
    needs = {
        transformer: {"data": sentences},
        music: {"data": songs},
        piano: {"data": recital},
        musegan: {"data": songs},
        fashion: {"extractor": few_pictures},
    }
    needs |= {one: {"data": story} for one in (gpt, gpt2, lstm)}
    needs |= {classify: {"data": films, "weights": tiny_llama}, sentiment: {"data": films}, named: {"data": tagged}}
    flags = {**COMMON, **flags, **needs.get(exp, {})}
    monkeypatch.setattr(writing, "SHOWN", 9)
    monkeypatch.setattr(composer, "BARS", 2)
    monkeypatch.setattr(pianist, "GIVEN", 1.0)
    monkeypatch.setattr(pianist, "PLAYED", 0.5)
    unrelated_draws(1)
    status, _, err = call(exp, *to_flags(run="straight", **flags))
    assert status == 0, err

    save = checkpoint.save_tree

    def save_and_interrupt(path, *rest):
        first = not path.exists()
        save(path, *rest)
        if first:  # what is saved because of Ctrl-C is the same file again
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_tree", save_and_interrupt)
        status, out, err = call(exp, *to_flags(run="halves", **flags))
    assert status == 0 and f"stopped at step {HALF}; " in out and not Path("halves", "result.json").exists(), err
    half = saved("halves", HALF)
    assert same(half, saved("straight", HALF))

    unrelated_draws(2)
    status, _, err = call(exp, "--resume", "--run", "halves", "--diagnose", HALF)  # which must not change anything
    assert status == 0, err
    assert diagnosed("halves") == [2 * HALF]
    ours, theirs = saved("halves", 2 * HALF), saved("straight", 2 * HALF)
    assert ours.keys() == theirs.keys() and [k for k in ours if not torch.equal(ours[k], theirs[k])] == []
    assert theirs["step"] == 2 * HALF and not same(ours, half)
    everything = ("train/", "grad/", "val/", "final/")
    assert logged("halves", *everything) == logged("straight", *everything)
    assert Path("halves", "result.json").read_text() == Path("straight", "result.json").read_text()


# ---- one key, one result ----


@pytest.fixture(scope="module")
def vocabularies():
    return tokens.train_pair(["the cat is here"] * 3, ["le chat est ici"] * 3, 300, shared=False)


def initialiser(name, vocabularies, weights):
    """key -> the leaves of a run's first state."""
    exp, flags = SETTINGS[name]
    args = exp.Args(**COMMON, **flags)
    more = {
        cgan: {"k": 16},
        classifier: {"classes": 10},
        mixture: {"classes": 3},
        lstm: {"v": 300},
        text2image: {"vocabulary": 75},
    }.get(exp, {})
    if exp is gpt2:
        more = {"cfg": released.config("small", args.dropout)}
    if exp in (sentiment, named, assistant):
        more = {"cfg": bert.Config(60, 12, 1, bert.block_config(16, 2, 24))}
        more |= {} if exp is assistant else {"classes": 3}
    if exp in (transformer, gpt):
        more = {"cfg": exp.model_config(args, vocabularies if exp is transformer else vocabularies[0])}
    if exp is classify:
        decoder = smollm.load(str(weights))
        more = {"trunk": decoder.params, "cfg": decoder.cfg, "classes": 2}
    return lambda key: tree.leaves(exp.init_state(key, args=args, **more))


@EACH
def test_one_key_gives_one_first_state(name, key, vocabularies, small_gpt2, tiny_llama):
    """Eager, vmapped and compiled."""
    init, keys = initialiser(name, vocabularies, tiny_llama), random.split(key, 3)
    expected = [init(k) for k in keys]
    assert any(not torch.equal(a, b) for a, b in zip(expected[0], expected[1], strict=True))
    torch._dynamo.reset()
    compiled = torch.compile(init, fullgraph=True, backend="aot_eager")
    together = vmap(init)(torch.stack(keys))
    for i, leaves in enumerate(expected):
        for x, one_of_several, from_graph in zip(leaves, together, compiled(keys[i]), strict=True):
            assert torch.equal(one_of_several[i], x) and torch.equal(from_graph, x)
    torch._dynamo.reset()


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_one_key_gives_one_dropout_mask(key, rate):
    """Eager, vmapped, compiled and both."""

    def kept(k):
        return nn.dropout(torch.ones(33, 7), rate, k) != 0

    keys = torch.stack(random.split(key, 3))
    expected = torch.stack([kept(k) for k in keys])
    assert not torch.equal(expected[0], expected[1])
    torch._dynamo.reset()
    compiled, both = (torch.compile(fn, fullgraph=True, backend="aot_eager") for fn in (kept, vmap(kept)))
    for masks in (vmap(kept)(keys), torch.stack([compiled(k) for k in keys]), both(keys)):
        assert torch.equal(masks, expected)
    torch._dynamo.reset()


def test_one_key_gives_one_training_step(key, vocabularies, sentences, monkeypatch):
    """All masks of a step of the Transformer are the same bits eager, vmapped, compiled and both. So is its loss where
    the kernels are the same, in a graph that is not vmapped: a vmapped matrix product is a batched one, which may sum
    in another order."""
    exp, flags = SETTINGS["transformer"]
    args = exp.Args(**COMMON, **flags)
    cfg, dtype = exp.model_config(args, vocabularies), torch.float32
    corpus = exp.encoded(
        typed.sides(list(pairs.read_tsv(sentences.read_bytes(), "tiny", "tiny"))), vocabularies, args.length
    )
    collate = partial(packing.collate, length=args.length, start=tokens.START, end=tokens.END)
    batch = next(packing.batches(corpus, random.fold_in(key, 1), args.rows, collate, args.length))
    state, masks, bernoulli = exp.init_state(key, cfg, args), [], random.bernoulli

    def recorded(*rest):
        masks.append(bernoulli(*rest))
        return masks[-1]

    def forward(key):
        masks.clear()
        loss = exp.loss(state.params, batch, key, cfg=cfg, dtype=dtype, smoothing=args.smoothing)
        return [loss, *masks]

    def step(key):
        return exp.step(state._replace(key=key), batch, cfg=cfg, args=args, dtype=dtype)[1]["train/loss"]

    keys = torch.stack(random.split(key, 2))
    losses = [step(k) for k in keys]
    assert losses[0] != losses[1]
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert [compiled(k) for k in keys] == losses
    torch.testing.assert_close(vmap(step)(keys), torch.stack(losses), atol=1e-6, rtol=1e-6)

    monkeypatch.setattr(random, "bernoulli", recorded)
    expected = [forward(random.fold_in(k, state.step)) for k in keys]
    assert [loss for loss, *_ in expected] == losses
    assert len(masks) == 2 + 5 + 2 + 3  # of embeddings, sublayers, hidden units and attention weights
    compiled = torch.compile(forward, fullgraph=True, backend="aot_eager")
    inner = vmap(random.fold_in, in_dims=(0, None))(keys, state.step)
    for found in (vmap(forward)(inner), tree.stack([compiled(k) for k in inner])):
        torch.testing.assert_close(found[0], torch.stack(losses), atol=1e-6, rtol=1e-6)
        assert all(map(torch.equal, found[1:], tree.stack(expected)[1:]))
    torch._dynamo.reset()


# ---- SIGKILL ----

TOY = {
    "r1": 0.0, "points": 6, "dropout": 0.3, "batch": 8,
    "generator": 8, "discriminator": 8, "log_every": 1, "compile": "off", "precision": "fp32", "device": "cpu",
}  # fmt: skip
# Importing takes seconds: this process does it once and forks a process for each run, which sees nothing of pytest's.
# A run is killed after so many seconds, or when it is about to do something with a file ("open", "os.rename", ...).
SERVER = """
import json, os, signal, sys, time
import torch
from experiments import exp_gan_curve as exp
from lib.run import cli

torch.set_num_threads(1)  # before the first operation: threads do not survive a fork

def kill_at(moment, name):
    def hook(event, args):
        if event == moment and os.path.basename(str(args[0])).startswith(name) and args[1] not in ("r", "a", None):
            if event == "open":
                os.close(os.open(args[0], os.O_CREAT | os.O_TRUNC | os.O_WRONLY))  # opened, and nothing written
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)

for line in sys.stdin:
    words, seconds, moment = json.loads(line)
    child = os.fork()
    if child == 0:
        try:
            os.dup2(2, 1)
            if moment:
                kill_at(*moment)
            sys.argv = [exp.NAME, *words]
            cli.main(exp.NAME, exp.PRESETS, exp.train, exp.load, exp.answers, exp.Use)
            os._exit(0)
        except SystemExit as stop:
            print(stop, file=sys.stderr, flush=True)
        finally:
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)  # which does nothing to one that has ended, and keeps its number until waitpid
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`server(*words, seconds=, moment=)` trains exp_gan_curve in a process of its own; False if it was killed."""
    log = tmp_path_factory.mktemp("server") / "log"
    with open(log, "w") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
        )

    def main(*flags, seconds=None, moment=None):
        print(json.dumps([[str(word) for word in flags], seconds, moment]), file=process.stdin, flush=True)
        status = process.stdout.readline().strip()
        assert status in ("0", str(-signal.SIGKILL)), log.read_text()[-2000:]
        return status == "0"

    yield main
    process.stdin.close()
    assert process.wait(timeout=60) == 0


def checkpoints(path):
    return [n for n, _ in checkpoint.steps(path / "checkpoints")]


def lines_to(path, step):
    """The whole lines of metrics.jsonl up to a step, as they are; but for the final results, which are found again."""
    log = path / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    lines = [line for line in lines if line.endswith("\n") and "final/" not in line]
    return [line for line in lines if json.loads(line)["step"] <= step]


def test_a_run_killed_at_fifty_moments_is_the_run_bit_for_bit(server, tmp_path):
    """At any time in its life: while it starts, trains, saves and finishes. Each time the last whole checkpoint is
    where it goes on, and what was logged before it stays as it was."""
    steps, straight = 20, tmp_path / "straight"
    flags = {**TOY, "steps": steps, "save_every": 2, "eval_every": 0}
    server(*to_flags(run=tmp_path / "first", **flags))  # loads what is loaded late
    before = time.perf_counter()
    assert server(*to_flags(run=straight, **flags))
    life, chance, killed, finished = time.perf_counter() - before, Random(0), Counter(), 0
    expected, losses = saved(straight, steps), logged(straight, "train/", "grad/")
    assert [n for n, _ in losses] == list(range(1, steps + 1))

    def enough():
        """On a machine that slows down meanwhile most of fifty moments may lie behind the training."""
        return killed.total() >= 50 and (killed["training"] > 10 or killed.total() == 200)

    while not enough() or not finished:
        path = tmp_path / f"run-{finished}"
        done = checkpoints(path)
        kept = lines_to(path, done[-1]) if done else []
        if not done and (path / "config.json").exists():
            shutil.rmtree(path)  # there is nothing to resume
        left = (steps - done[-1]) / steps if done else 1  # of the steps: a third of a run is start and end
        seconds = None if enough() else chance.uniform(0, life * (1 + 2 * left) / 3)
        if killed.total() < 3:
            seconds = 0.02 * life  # while it starts
        ended = server(*(["--resume", *to_flags(run=path)] if done else to_flags(run=path, **flags)), seconds=seconds)
        ended = ended or (path / "result.json").exists()  # killed when all was done
        assert lines_to(path, steps)[: len(kept)] == kept
        now = checkpoints(path)
        assert not done or now[-1] >= done[-1]
        if ended:
            assert same(saved(path, steps), expected)
            assert logged(path, "train/", "grad/") == losses
            assert (path / "result.json").read_text() == (straight / "result.json").read_text()
            finished += 1
        else:
            assert all(saved(path, n)["step"] == n for n in now)
            stage = "starting" if not now else "training" if now[-1] < steps else "finishing"
            killed[stage] += 1
    assert killed["starting"] and killed["training"] > 10, killed


WHOLE = {**TOY, "steps": 8, "save_every": 2, "eval_every": 2}
EVERYTHING = ("train/", "grad/", "val/", "final/")


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """A run of the toy that nothing disturbs."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert server(*to_flags(run=path, **WHOLE))
    return path


LATER = ("open", ".step-6")  # what a resumed run is resumed from: it has logged more than its last checkpoint knows


@pytest.mark.parametrize(
    "moments",
    [
        [("os.mkdir", "checkpoints")],
        [("open", ".step-4")],
        [("os.rename", ".step-4")],
        [("os.remove", "step-2")],
        [LATER, ("open", "config.")],
        [LATER, ("os.rename", "config.")],
        [LATER, ("open", "metrics.")],
        [LATER, ("open", ".step-6"), ("os.rename", ".step-8")],
        [("open", "result.")],
        [("os.rename", "result.")],
    ],
    ids=lambda moments: ", then ".join(" ".join(moment) for moment in moments),
)
def test_a_run_killed_while_it_does_something_with_a_file(server, whole, tmp_path, moments):
    """It goes on with --resume, ends with the same parameters, and has logged every value once and in order."""
    path = tmp_path / "run"
    for i, moment in enumerate(moments):
        assert not server(*(["--resume", *to_flags(run=path)] if i else to_flags(run=path, **WHOLE)), moment=moment)
    assert server("--resume", *to_flags(run=path))
    assert same(saved(path, 8), saved(whole, 8))
    assert logged(path, *EVERYTHING) == logged(whole, *EVERYTHING)
    assert (path / "result.json").read_text() == (whole / "result.json").read_text()


def test_no_half_written_checkpoint_is_left_by_a_resumed_run(server, tmp_path):
    path = tmp_path / "run"
    assert not server(*to_flags(run=path, **WHOLE), moment=("os.rename", ".step-4"))
    assert server("--resume", *to_flags(run=path))
    assert sorted(p.name for p in (path / "checkpoints").iterdir()) == ["step-6.safetensors", "step-8.safetensors"]
