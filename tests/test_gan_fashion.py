"""experiments/exp_gan_fashion.py as a user runs it, on pictures of noise; its networks and its step."""

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments import exp_classifier_fashion as classifier
from experiments import exp_gan_fashion as exp
from lib import random, tree
from lib.data import images
from lib.run import cli
from lib.transform import jit, value_and_grad

TINY = {
    "width": 4, "latent": 6, "batch": 8, "steps": 4, "eval_every": 2, "save_every": 2, "log_every": 1,
    "kid_samples": 60, "compile": "off", "precision": "fp32", "device": "cpu",
}  # fmt: skip
MODELS = [("dense", False), ("dense", True), ("dcgan", False), ("dcgan", True)]


def pictures(n, seed):
    """Noise, brighter further down for higher labels."""
    labels = torch.arange(n) % 10
    noise = random.randint(random.key(seed), (n, 1, 28, 28), 0, 80)
    bright = (torch.arange(28) // 3 == labels[:, None]).long()[:, None, :, None] * 150
    return images.Images((noise + bright).to(torch.uint8), labels)


SPLITS = images.Splits("fashion", pictures(80, 1), pictures(40, 2), pictures(60, 3), images.FASHION_NAMES)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """An experiment's command in this process and a folder of its own; returns status, output and error output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(images, "load", lambda *_, **__: SPLITS)

    def main(module, *words, **values):
        words = [*words, *(w for k, v in values.items() for w in (f"--{k.replace('_', '-')}", str(v)))]
        monkeypatch.setattr(sys, "argv", ["x", *map(str, words)])
        capsys.readouterr()
        status = 0
        try:
            cli.main(module.NAME, module.PRESETS, module.train, module.load, module.answers, module.Use)
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return status, out, err

    return main


@pytest.fixture
def extractor(call):
    values = {k: TINY[k] for k in ("batch", "steps", "compile", "precision", "device")}
    status, _, err = call(classifier, "--widths", "4", "8", run="extractor", **values)
    assert status == 0, err
    return "extractor"


def made(model, conditional, **more):
    args = exp.Args(model=model, conditional=conditional, **{**TINY, **more})
    return args, exp.init_state(random.key(0), args)


@pytest.mark.parametrize(("model", "conditional"), MODELS)
def test_the_step_is_one_graph_and_equals_eager(model, conditional):
    torch._dynamo.reset()
    args, state = made(model, conditional)
    step, index = partial(exp.step, args=args, dtype=torch.float32), torch.arange(8)
    eager = state
    compiled, update = tree.map(torch.clone, state), jit(step, backend="aot_eager")
    for _ in range(2):
        eager, out = step(eager, index, SPLITS.train)
        compiled, same = update(compiled, index, SPLITS.train)
    torch.testing.assert_close(tree.leaves((compiled, same)), tree.leaves((eager, out)), atol=1e-5, rtol=1e-4)
    assert int(eager.step) == 2


@pytest.mark.parametrize(("model", "conditional"), MODELS)
def test_the_step_moves_every_parameter_and_touches_nothing_else(model, conditional):
    args, state = made(model, conditional)
    before, generator = tree.map(torch.clone, state), torch.get_rng_state()
    after = exp.step(state, torch.arange(8), SPLITS.train, args=args, dtype=torch.float32)[0]
    after = exp.step(after, torch.arange(8), SPLITS.train, args=args, dtype=torch.float32)[0]
    torch.testing.assert_close(state, before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)
    new, old = tree.flatten(after.params), tree.flatten(state.params)
    assert [name for name in new if torch.equal(new[name], old[name])] == []
    assert {name: x.shape for name, x in new.items()} == {name: x.shape for name, x in old.items()}
    assert all(torch.isfinite(x).all() for x in tree.leaves(after.ema))


def test_each_network_minimises_its_own_loss():
    """The discriminator's update leaves the generator alone, and the other way round: one learning rate at a time."""
    args, state = made("dcgan", False)
    z, label = random.normal(random.key(5), (8, args.latent)), torch.zeros(8, dtype=torch.int64)
    draw = partial(exp.generate, state.params.g, state.model.g, z, label, args=args, train=True)
    discriminate = partial(exp.discriminate, args=args)

    def g_loss(g):
        fake, _ = exp.generate(g, state.model.g, z, label, args=args, train=True)
        return -discriminate(state.params.d, state.model.d, fake, label, random.key(6))[0].mean()

    # The head starts at zero, so that at first no gradient reaches the generator.
    assert float(tree.global_norm(value_and_grad(g_loss)(state.params.g)[1])) == 0
    assert draw()[0].shape == (8, 1, 28, 28) and draw()[0].abs().max() <= 1


def test_a_class_that_is_asked_for_reaches_the_picture_and_the_logit():
    args, state = made("dcgan", True)
    z = random.normal(random.key(5), (1, args.latent)).expand(2, -1)
    one, other = exp.draw(state.ema, random.key(1), torch.tensor([1, 1]), args), torch.tensor([1, 2])
    drawn = exp.generate(state.params.g, state.model.g, z, other, args=args, train=False)[0]
    assert not torch.allclose(drawn[0], drawn[1])
    params = {**state.params.d, "class": state.params.d["class"] + 1.0 * torch.arange(10)[:, None]}
    logits = exp.discriminate(params, state.model.d, one[:1].expand(2, -1, -1, -1), other, random.key(6), args=args)[0]
    assert logits[0] != logits[1]


@pytest.mark.device
@pytest.mark.parametrize(("model", "conditional"), [("dense", False), ("dcgan", True)])
def test_as_a_user(call, extractor, model, conditional):
    more = {**TINY, "model": model, "extractor": extractor}
    words = ["--conditional"] if conditional else []
    status, out, err = call(exp, *words, run="whole", **more)
    assert status == 0, err
    assert "KID on the features of exp_classifier_fashion/extractor" in out and "kid of training pictures" in out
    assert ("agreement" in out) == conditional
    events = EventAccumulator("whole")
    events.Reload()
    tags = events.Tags()
    assert {"train/loss_d", "train/loss_g", "val/kid", "val/rarest_class"} <= set(tags["scalars"])
    assert "samples/grid" in tags["images"] and "mode collapse" in err
    assert Image.open("whole/samples.png").size[0] > 8 * 28

    assert call(exp, *words, run="half", **{**more, "steps": 2})[0] == 0
    assert call(exp, "--resume", run="half", steps=4)[0] == 0
    whole, half = (load_file(Path(name, "checkpoints", "step-4.safetensors")) for name in ("whole", "half"))
    assert all(torch.equal(whole[name], half[name]) for name in whole)

    status, out, err = call(exp, "sample", "--run", "whole", "--n", 5, "--out", "five.png")
    assert status == 0 and Path("five.png").exists(), err
    status, _, _ = call(exp, "sample", "--run", "whole", "--label", "bag", "--out", "bags.png")
    assert (status == 0) == conditional and (conditional or "was trained without --conditional" in str(status))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "mnist"], "only fashion"),
        (["--extractor", "nowhere"], "nowhere"),
        (["sample", "--n", "0"], "--n must be at least 1"),
        (["sample"], "no finished run of exp_gan_fashion"),
    ],
)
def test_bad_input(call, words, message):
    status, _, err = call(exp, *words)
    assert status != 0 and message in f"{err} {status}"


def test_an_extractor_of_other_data_is_refused(call, extractor):
    path = Path(extractor, "config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": "mlp"}))
    status, _, _ = call(exp, **{**TINY, "extractor": extractor})
    assert "not a run of exp_classifier_fashion" in status


def test_presets():
    assert {name: dataclasses.asdict(args)["model"] for name, args in exp.PRESETS.items()} == {
        "small": "dcgan", "book": "dense", "best": "dcgan",
    }  # fmt: skip
    params = exp.init_state(random.key(0), exp.PRESETS["book"]).params
    assert (tree.size(params.g), tree.size(params.d)) == (1_486_352, 1_460_225)  # chapter 4
