"""experiments/exp_cyclegan_hair.py as a user runs it, on few small faces; its networks, losses, step and measures."""

import dataclasses
import itertools
import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.func import vmap

from experiments import exp_cyclegan_hair as exp
from lib import checkpoint, random, tree
from lib.data import domains, drawing, faces
from lib.data.domains import Domains
from lib.run import replicas
from lib.tasks import judge, unpaired
from lib.tasks.unpaired import Translators
from lib.transform import jit
from tests.flags import flags

SMALL = {"size": 16, "width": 4, "blocks": 1, "disc_width": 4, "disc_downs": 1, "batch": 2, "buffer": 4}
TINY = {
    **SMALL, "faces": 60, "steps": 4, "eval_every": 2, "save_every": 2, "log_every": 1, "compile": "off",
    "precision": "fp32", "device": "cpu",
}  # fmt: skip
PLAIN = partial(exp.step, dtype=torch.float32)


@pytest.fixture(scope="module", autouse=True)
def few(tmp_path_factory):
    """A cache of its own for this file, few held-out faces, a judge that hardly learns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUREGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(drawing, "_cores", lambda: 1)
        for name in ("FACES", "OTHERS"):
            patch.setattr(judge, name, getattr(judge, name)._replace(steps=2))
        patch.setattr(exp, "VAL", 6)
        patch.setattr(exp, "TEST", 6)
        yield


def made(seed=0, **more):
    args = exp.Args(steps=20, **{**SMALL, **more})
    return args, exp.init_state(random.key(seed), args)


def noise(n=6, size=16, seed=1):
    pixels = (random.randint(k, (n, 3, size, size), 0, 256) for k in random.split(random.key(seed)))
    return Domains(*(x.to(torch.uint8) for x in pixels))


def rows(*numbers):
    return Domains(torch.tensor(numbers), torch.tensor(numbers).flip(0))


# ---- networks ----


def test_the_generator_is_the_papers():
    """Against torch's modules, put together from the paper's 7.2."""
    _, state = made(width=3, blocks=2)
    p = tree.map(lambda w: w * 5, state.params.g["ab"])
    weights = iter([p["in"], *p["down"], *itertools.chain(*p["block"]), *p["up"], p["out"]])

    def layer(module):
        values = next(weights)
        module.weight = nn.Parameter(values["w"])
        assert (module.bias is None) == ("b" not in values)
        return module

    same = {"padding_mode": "reflect", "bias": False}
    after = lambda f: (nn.InstanceNorm2d(f), nn.ReLU())  # noqa: E731
    x = random.uniform(random.key(1), (2, 3, 16, 16)) * 2 - 1
    start = nn.Sequential(
        layer(nn.Conv2d(3, 3, 7, padding=3, **same)), *after(3),
        layer(nn.Conv2d(3, 6, 3, 2, 1, bias=False)), *after(6),
        layer(nn.Conv2d(6, 12, 3, 2, 1, bias=False)), *after(12),
    )  # fmt: skip
    h = start(x)
    for _ in range(2):
        block = [layer(nn.Conv2d(12, 12, 3, padding=1, **same)) for _ in range(2)]
        h = h + nn.Sequential(block[0], *after(12), block[1], nn.InstanceNorm2d(12))(h)
    end = nn.Sequential(
        layer(nn.ConvTranspose2d(12, 6, 4, 2, 1, bias=False)), *after(6),
        layer(nn.ConvTranspose2d(6, 3, 4, 2, 1, bias=False)), *after(3),
        layer(nn.Conv2d(3, 3, 7, padding=3, padding_mode="reflect")), nn.Tanh(),
    )  # fmt: skip
    end[-2].bias = nn.Parameter(p["out"]["b"])
    torch.testing.assert_close(exp.generate(p, x), end(h).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("downs", "field"), [(1, 16), (2, 34), (3, 70)])
def test_the_discriminator_judges_patches(downs, field):
    """Against torch's modules; the field of a logit is what its gradient reaches where no normalisation spreads it."""
    _, state = made(size=128, disc_width=2, disc_downs=downs)
    p = tree.map(lambda w: w * 9, state.params.d["a"])
    layers = []
    for i, values in enumerate([p["in"], *p["hidden"], p["out"]]):
        f, c, _, _ = values["w"].shape
        module = nn.Conv2d(c, f, 4, 2 if i < downs else 1, 1, bias="b" in values)
        module.load_state_dict({"weight": values["w"], **({"bias": values["b"]} if "b" in values else {})})
        layers.append([module])
    for i, layer in enumerate(layers[:-1]):
        layer += ([nn.InstanceNorm2d(layer[0].out_channels)] if i else []) + [nn.LeakyReLU(0.2)]
    x = random.normal(random.key(2), (2, 3, 128, 128))
    logits = exp.discriminate(p, x)
    torch.testing.assert_close(logits, nn.Sequential(*itertools.chain(*layers))(x).detach(), atol=1e-4, rtol=1e-4)
    side = 128 // 2**downs - 2
    assert logits.shape == (2, 1, side, side)

    y = x.requires_grad_()
    bare = nn.Sequential(*(layer[0] for layer in layers))(y)
    (slope,) = torch.autograd.grad(bare[0, 0, side // 2, side // 2], y)
    assert (slope[0].abs().sum(0) > 0).any(0).sum() == field


def test_a_translation_lies_between_black_and_white_and_keeps_its_size():
    for size in (12, 20, 64):
        _, state = made(size=size, disc_downs=2)
        y = exp.generate(state.params.g["ab"], noise(size=size).a / 127.5 - 1)
        assert y.shape == (6, 3, size, size) and y.abs().max() <= 1 and y.dtype == torch.float32
        assert torch.isfinite(exp.discriminate(state.params.d["a"], y)).all()


def test_the_books_networks():
    """Chapter 6's parameters, less the biases that a normalisation takes away; kernels of 4 instead of 3 on the way
    up."""
    book, key = exp.PRESETS["book"], random.key(0).to("meta")
    useless = 64 + 128 + 256 + 2 * 9 * 256 + 128 + 64
    assert tree.size(exp.generator_init(key, book)) == 11_378_179 - useless + (16 - 9) * (256 * 128 + 128 * 64)
    assert tree.size(exp.discriminator_init(key, book)) == 2_764_737 - (128 + 256 + 512)


# ---- losses ----


def test_losses_are_the_papers():
    args, state = made(cycle=7.0, identity=0.5)
    g, d = (tree.map(lambda w: w * 5, p) for p in state.params)
    x = noise()
    a, b = (y[:3] / 127.5 - 1 for y in x)
    to_b, to_a = (partial(exp.generate, g[k]) for k in ("ab", "ba"))
    on_a, on_b = (partial(exp.discriminate, d[k]) for k in "ab")

    loss, (fake, parts) = exp.generator_loss(g, d, Domains(a, b), args=args)
    adversarial = F.mse_loss(on_b(to_b(a)), torch.tensor(1.0).expand(3, 1, 6, 6)) + (on_a(to_a(b)) - 1).pow(2).mean()
    cycle = F.l1_loss(to_a(to_b(a)), a) + F.l1_loss(to_b(to_a(b)), b)
    identity = F.l1_loss(to_b(b), b) + F.l1_loss(to_a(a), a)
    torch.testing.assert_close(loss, adversarial + 7 * cycle + 3.5 * identity)
    assert torch.equal(fake.a, to_a(b)) and torch.equal(fake.b, to_b(a))
    torch.testing.assert_close(parts, {"adversarial": adversarial, "cycle": cycle, "identity": identity})

    # One discriminator's loss is the mean of its two squared errors; theirs is the mean of both.
    errors = [(on_a(a) - 1).pow(2), on_a(fake.a).pow(2), (on_b(b) - 1).pow(2), on_b(fake.b).pow(2)]
    expected = torch.stack([e.mean() for e in errors]).mean()
    torch.testing.assert_close(exp.discriminator_loss(d, Domains(a, b), fake), expected)


def test_without_identity_loss_its_weight_is_nothing():
    args, state = made(identity=0.0)
    real = Domains(*(x / 127.5 - 1 for x in noise()))
    loss, (_, parts) = exp.generator_loss(*state.params, real, args=args)
    torch.testing.assert_close(loss, parts["adversarial"] + 10 * parts["cycle"])
    assert parts.keys() == {"adversarial", "cycle"}


def test_the_learning_rate_is_constant_for_half_the_run_then_falls_to_nothing():
    """Under a gradient that never changes, Adam moves by the learning rate."""
    for schedule, expected in (("linear", [1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]), ("constant", [1] * 9)):
        adam = exp.optimizer(exp.Args(steps=8, lr=0.5, schedule=schedule))
        p, moves = torch.zeros(1), []
        state = adam.init(p)
        for _ in range(9):
            new, state = adam.update(torch.ones(1), state, p)
            moves.append(float(p - new))
            p = new
        assert moves == pytest.approx([0.5 * x for x in expected], abs=1e-5)


# ---- the step ----


def test_the_step_is_one_graph_and_equals_eager():
    torch._dynamo.reset()
    args, eager = made(identity=0.5, flip=True, lr=1e-4)
    step, data = partial(PLAIN, args=args), noise()
    compiled, update = tree.map(torch.clone, eager), jit(step, backend="aot_eager")
    for i in range(3):
        eager, out = step(eager, rows(i, i + 2), data)
        compiled, same = update(compiled, rows(i, i + 2), data)
    torch.testing.assert_close(tree.leaves((compiled, same)), tree.leaves((eager, out)), atol=1e-5, rtol=1e-4)
    assert int(eager.step) == 3


def test_the_step_of_replicas_is_each_ones():
    args, _ = made(flip=True)
    # In fp64: Adam's first steps make the rounding of a gradient near 0 as large as any other.
    states = [tree.map(lambda x: x.double() if x.is_floating_point() else x, made(seed=i)[1]) for i in range(2)]
    index, data, step = [rows(0, 1), rows(3, 2)], noise(), partial(exp.step, dtype=torch.float64)

    def one(leaves, i):
        return tree.leaves(step(tree.unflatten(states[0], leaves), Domains(*i), data, args=args)[0])

    both = vmap(one)(tree.leaves(tree.stack(states)), tuple(tree.stack(index)))
    single = tree.stack([step(s, i, data, args=args)[0] for s, i in zip(states, index, strict=True)])
    torch.testing.assert_close(both, tree.leaves(single), atol=1e-6, rtol=1e-5)


def test_identity_weights_can_be_swept():
    args, state = made()
    for weight in (0.0, 0.5):
        swept = replicas.with_values(args, {"identity": torch.tensor(weight)})
        fixed = replicas.with_values(args, {"identity": weight})
        ours, theirs = (PLAIN(state, rows(0, 1), noise(), args=x)[0] for x in (swept, fixed))
        torch.testing.assert_close(tree.leaves(ours), tree.leaves(theirs))


@pytest.mark.parametrize("buffer", [0, 4])
def test_the_step_moves_every_parameter_and_touches_nothing_else(buffer):
    args, state = made(buffer=buffer, identity=0.5)
    before, generator = tree.map(torch.clone, state), torch.get_rng_state()
    after, out = PLAIN(state, rows(0, 1), noise(), args=args)
    torch.testing.assert_close(state, before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)
    new, old = tree.flatten(after.params), tree.flatten(state.params)
    assert [name for name in new if torch.equal(new[name], old[name])] == []
    shapes = lambda x: {name: (leaf.shape, leaf.dtype) for name, leaf in tree.flatten(x).items()}  # noqa: E731
    assert shapes(after) == shapes(state)
    assert all(torch.isfinite(x).all() for x in tree.leaves((after, out)))


def test_generators_learn_first_and_from_the_discriminators_as_they_are():
    """One update by hand: whatever the discriminators learn in it is too late for the generators, and they see the
    translations of before."""
    args, state = made(buffer=0)
    data, index = noise(), rows(0, 1)
    real = Domains(*(x[i] / 127.5 - 1 for x, i in zip(data, index, strict=True)))
    after, out = PLAIN(state, index, data, args=args)
    g, d = state.params
    loss_g, (fake, _) = exp.generator_loss(g, d, real, args=args)
    torch.testing.assert_close(out["train/loss_g"], loss_g)
    torch.testing.assert_close(out["train/loss_d"], exp.discriminator_loss(d, real, fake))
    leaves = [x.clone().requires_grad_() for x in tree.leaves(g)]
    total, _ = exp.generator_loss(tree.unflatten(g, leaves), d, real, args=args)
    grads = tree.unflatten(g, torch.autograd.grad(total, leaves))
    expected, _ = exp.optimizer(args).update(grads, state.opt.g, g)
    torch.testing.assert_close(after.params.g, expected, atol=1e-6, rtol=1e-5)


def test_the_buffer_holds_translations_of_each_domain():
    args, state = made(buffer=4)
    data, fakes = noise(), []
    for i in range(2):
        real = Domains(*(x[j] / 127.5 - 1 for x, j in zip(data, rows(i, i + 1), strict=True)))
        fakes.append(exp.translated(state.params.g, real))
        state, _ = PLAIN(state, rows(i, i + 1), data, args=args)
    for name, held in state.buffers.items():
        assert int(held.filled) == 4
        torch.testing.assert_close(held.examples, torch.cat([getattr(fake, name) for fake in fakes]))
    # Full: discriminators are shown an old one where the generators' newest would have been, at times.
    without, differ = dataclasses.replace(args, buffer=0), []
    for _ in range(6):
        _, bare = PLAIN(state._replace(buffers={}), rows(0, 1), data, args=without)
        state, out = PLAIN(state, rows(0, 1), data, args=args)
        assert torch.equal(bare["train/loss_g"], out["train/loss_g"])
        differ.append(not torch.isclose(bare["train/loss_d"], out["train/loss_d"]))
    assert any(differ)


def test_faces_are_mirrored_one_by_one():
    x = noise(n=40).a
    y = exp.prepared(x, random.key(3), flip=True)
    plain = exp.prepared(x, random.key(3), flip=False)
    assert plain.min() == -1 and plain.max() == 1 and torch.equal(plain, x / 127.5 - 1)
    turned = (y == plain.flip(-1)).flatten(1).all(1)
    assert 8 < int(turned.sum()) < 32 and (turned | (y == plain).flatten(1).all(1)).all()


def test_the_averaged_generators_follow():
    args, state = made(ema_decay=0.0)
    after, _ = PLAIN(state, rows(0, 1), noise(), args=args)
    torch.testing.assert_close(after.ema, after.params.g)
    late, _ = PLAIN(state._replace(step=state.step + 99), rows(0, 1), noise(), args=made(ema_decay=0.75)[0])
    mixed = tree.map(lambda old, new: 0.75 * old + 0.25 * new, state.ema, late.params.g)
    torch.testing.assert_close(late.ema, mixed)


def test_it_learns_to_tell_dark_from_bright():
    """Plain pictures of either brightness, each with its own stripe, which must stay where it is."""
    args = exp.Args(**{**SMALL, "size": 8, "batch": 4, "lr": 5e-3, "steps": 40, "schedule": "constant"})
    columns = torch.arange(8)
    stripe = (columns[:, None] == columns)[:, None, None].expand(8, 3, 8, 8) * 60
    data = Domains(*((stripe + base).to(torch.uint8) for base in (30, 160)))
    state = exp.init_state(random.key(0), args)
    orders = domains.numbers(random.key(1), 0, sizes=(8, 8), batch=4)
    for index in itertools.islice(orders, 40):
        state, _ = PLAIN(state, index, data, args=args)
    for name, source, target in (("ab", data.a, data.b), ("ba", data.b, data.a)):
        y = exp.generate(state.ema[name], source / 127.5 - 1)
        far, start = (exp.l1(z, target / 127.5 - 1) for z in (y, source / 127.5 - 1))
        assert far < 0.35 * start


def test_batches_are_drawn_from_each_domain_by_itself():
    orders = lambda first: domains.numbers(random.key(4), first, sizes=(6, 9), batch=3)  # noqa: E731
    found = list(itertools.islice(orders(0), 12))
    a, b = (torch.stack(x) for x in zip(*found, strict=True))
    assert all(sorted(x.flatten().tolist()) == list(range(6)) for x in a.split(2))
    assert all(sorted(x.flatten().tolist()) == list(range(9)) for x in b.split(3))
    assert len(set(zip(*(x.flatten().tolist() for x in (a, b)), strict=True))) > 15
    alike = next(domains.numbers(random.key(4), 0, sizes=(9, 9), batch=9))
    assert not torch.equal(alike.a, alike.b)
    for first in (1, 5):
        for ours, theirs in zip(orders(first), found[first:], strict=False):
            assert torch.equal(ours.a, theirs.a) and torch.equal(ours.b, theirs.b)


def test_objectives_are_each_networks_own():
    args, state = made()
    real = Domains(*(x[:3] / 127.5 - 1 for x in noise()))
    losses = exp.objectives(state, args)
    assert set(losses) == {"params.g.ab", "params.g.ba", "params.d.a", "params.d.b"}
    g, d = state.params
    expected = exp.generator_loss(g, d, real, args=args)[0], exp.discriminator_loss(d, real, exp.translated(g, real))
    for path, loss in losses.items():
        torch.testing.assert_close(loss(tree.at(state, path), real), expected["gd".index(path[7])])


# ---- measures ----


class Eye:
    """Sees hair as blond (1) where a face is bright in its upper left corner, and an "other" attribute that is there
    always."""

    def agreement(self, x, wanted):
        seen = {"hair": (x[:, :, 0, 0].mean(1) > 0).long(), "other": torch.ones(len(x)).bool()}
        return {name: float((seen[name] == value).float().mean()) for name, value in wanted.items()}


def test_measures_of_known_translations():
    """Faces whose upper half is hair: perfect translations, nothing done, and hair that is right where the rest is 20
    levels off."""
    a, b = torch.full((4, 3, 8, 8), 51, dtype=torch.uint8), torch.full((4, 3, 8, 8), 51, dtype=torch.uint8)
    hair = torch.zeros(4, 1, 8, 8, dtype=torch.bool)
    hair[:, :, :4] = True
    b[:, :, :4] = 204
    other = {"other": torch.tensor([True, True, True, False])}
    held = domains.Held(Domains(a, b), Domains(other, other), hair)
    right = {"ab": b / 127.5 - 1, "ba": a / 127.5 - 1}
    off = {name: torch.where(hair, x, x + 20 / 127.5) for name, x in right.items()}
    nothing = {"ab": a / 127.5 - 1, "ba": b / 127.5 - 1}
    expected = {
        "right": (right, 0, 0, 0, 1), "off": (off, 0, 20 / 255, 10 / 255, 1),
        "nothing": (nothing, 153 / 255, 0, 0.5 * 153 / 255, 0),
    }  # fmt: skip
    for way in (0, 1):
        for name, (g, hair_l1, other_l1, cycle_l1, agreement) in expected.items():
            ways = Translators(lambda x, g=g: g["ab"], lambda x, g=g: g["ba"])
            values = unpaired.evaluate(ways, held, Eye(), "hair")[way]
            assert values["hair_l1"] == pytest.approx(hair_l1, abs=1e-6), name
            assert values["other_l1"] == pytest.approx(other_l1, abs=1e-6)
            assert values["hair_l1_nothing"] == pytest.approx(0.6)
            assert (values["agreement"], values["disagreement"]) == (agreement, 1 - agreement)
            assert values["kept"] == 0.75
            if name != "nothing":  # whose translations back are of the other domain here
                assert values["cycle_l1"] == pytest.approx(cycle_l1, abs=1e-6)


def test_held_out_faces_are_the_same_people_twice():
    held = domains.held_out("test", 6, 16, None, "hair")
    assert held.hair.any() and not ((held.pixels.a != held.pixels.b) & ~held.hair).any()
    assert set(held.attributes.a) == set(faces.DRAWN) - {"hair"}
    assert all(torch.equal(x, held.attributes.b[name]) for name, x in held.attributes.a.items())
    dark, bright = ((x * held.hair).sum() for x in held.pixels)
    assert dark < bright / 3


def test_domains_hold_different_people():
    found, what, names = domains.load("default", None, 16, 60)
    assert (what, names) == ("hair", ["black", "blond"])
    assert 10 < int(found.train.attributes["hair"].sum()) < 50


def test_the_sheet_shows_faces_translations_and_the_way_back():
    x = Domains(torch.full((3, 3, 8, 8), -1.0), torch.full((3, 3, 8, 8), 1.0))
    g = Translators(lambda x: torch.full_like(x, 0.2), lambda x: torch.full_like(x, -0.2))
    levels = lambda picture: picture[0, 6::10, 6].tolist()  # noqa: E731
    assert levels(unpaired.sheet(g, x)) == [0, 153, 102, 255, 102, 153]
    assert levels(unpaired.sheet(g, x, to=0)) == [255, 102, 153] and levels(unpaired.sheet(g, x, to=1)) == [0, 153, 102]
    many = Domains(*(y[:1].expand(10, -1, -1, -1) for y in x))
    assert unpaired.sheet(g, many, to=1).shape == (3, 2 + 6 * 10, 2 + 8 * 10)


# ---- as a user ----


@pytest.fixture
def finished(call):
    status, _, err = call(exp, *flags(run="whole", **TINY))
    assert status == 0, err
    return Path("whole")


@pytest.mark.device
def test_as_a_user(call, monkeypatch):
    status, out, err = call(exp, *flags(run="whole", **TINY))
    assert status == 0, err
    assert "to blond" in out and "hair L1" in out and "rest kept" in out
    assert 'next: just sample exp_cyclegan_hair --n 8 --to "blond"' in out
    events = EventAccumulator("whole")
    events.Reload()
    tags = events.Tags()
    expected = {"train/loss_g", "train/loss_d", "train/cycle", "val/hair_l1", "val/other_l1", "val/cycle_l1"}
    assert {*expected, "val/agreement", "val/kept", "perf/images_per_second"} <= set(tags["scalars"])
    assert "samples/translated" in tags["images"]
    assert Image.open("whole/samples.png").size == (2 * (2 + 6 * 18), 2 * (2 + 6 * 18))
    result = json.loads(Path("whole/result.json").read_text())
    assert {"test/hair_l1", "test/hair_l1/to_blond", "test/other_l1/to_black", "test/agreement"} <= set(result)
    assert result["test/hair_l1"] == pytest.approx(sum(result[f"test/hair_l1/to_{x}"] for x in domains.COLOURS) / 2)

    save = checkpoint.save_tree

    def save_and_interrupt(path, *rest):
        save(path, *rest)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_tree", save_and_interrupt)
        assert "stopped at step 2" in call(exp, *flags(run="half", **TINY))[1]
    assert call(exp, "--resume", *flags(run="half"))[0] == 0
    whole, half = (load_file(Path(name, "checkpoints", "step-4.safetensors")) for name in ("whole", "half"))
    assert whole.keys() == half.keys() and all(torch.equal(whole[name], half[name]) for name in whole)


@pytest.mark.device
def test_a_run_is_used(call, finished):
    size = lambda rows, columns: (2 * (2 + 18 * columns), 2 * (2 + 18 * rows))  # noqa: E731
    for words, expected in (
        ([], size(6, 8)), (["--n", 3], size(6, 3)), (["--n", 3, "--to", "black"], size(3, 3)),
    ):  # fmt: skip
        status, out, err = call(exp, "sample", "--run", finished, *words)
        assert status == 0 and "translated.png" in out, err
        assert Image.open("translated.png").size == expected

    # One's own: of any size, mode and transparency.
    Image.new("RGBA", (40, 30), (0, 0, 0, 0)).save("clear.png")
    Image.new("L", (40, 30), 255).save("grey.png")
    for name in ("clear", "grey"):
        words = [f"{name}.png", "--out", f"{name}-blond.png", "--to", "blond"]
        status, _, err = call(exp, "sample", "--run", finished, *words)
        assert status == 0 and Image.open(f"{name}-blond.png").size == size(3, 1), err
    clear, grey = (Image.open(f"{name}-blond.png") for name in ("clear", "grey"))
    assert clear.tobytes() == grey.tobytes()  # transparent is white
    both = ["clear.png", "grey.png", "--to", "black", "--out", "both.png"]  # several, side by side
    assert call(exp, "sample", "--run", finished, *both)[0] == 0 and Image.open("both.png").size == size(3, 2)
    Image.linear_gradient("L").save("mine.png")
    for name in domains.COLOURS:
        call(exp, "sample", "--run", finished, "mine.png", "--to", name, "--out", f"{name}.png")
    assert Image.open("black.png").tobytes() != Image.open("blond.png").tobytes()


@pytest.mark.device
def test_replicas(call):
    values = {**TINY, "steps": 2, "replicas": 2}
    status, out, err = call(exp, *flags(run="two", **values))
    assert status == 0 and "best of 2 by val/hair_l1" in out, err
    assert Path("two/replica-1/samples.png").exists()


def folder(path, names=("apples", "pears"), n=40):
    for i, name in enumerate(names):
        (path / name).mkdir(parents=True)
        for j, x in enumerate(noise(n, seed=i).a):
            Image.fromarray(x.permute(1, 2, 0).numpy()).save(path / name / f"{j}.png")
    return path


def test_a_folder_of_ones_own(call, tmp_path):
    data = folder(tmp_path / "fruit")
    status, out, err = call(exp, *flags(run="fruit-run", **{**TINY, "data": data}))
    assert status == 0 and "right domain" in out and "hair" not in out.replace(exp.NAME, ""), err
    assert "to pears" in out and "to apples" in out
    status, _, err = call(exp, "sample", "--run", "fruit-run", "--n", 2, "--to", "pears")
    assert status == 0, err
    (data / "apples").rename(data / "quinces")  # which would make it the other domain
    status, _, err = call(exp, "sample", "--run", "fruit-run", "--n", 2, "--to", "pears")
    assert status == 1 and "has pears and quinces now: name its folders apples and pears again" in err
    status, _, err = call(exp, "--run", "fruit-run", "--resume", "--steps", 9)
    assert status == 1 and 'was begun with ["apples", "pears"]' in err and Path("fruit-run/result.json").exists()
    data.rename(tmp_path / "elsewhere")  # a picture of one's own needs none of it
    Image.new("RGB", (20, 20)).save("mine.png")
    assert call(exp, "sample", "--run", "fruit-run", "mine.png", "--to", "apples")[0] == 0
    status, _, err = call(exp, "sample", "--run", "fruit-run", "--to", "blond")
    assert status == 1 and "this run translates into apples or pears" in err


def bad_line(found, message):
    status, _, err = found
    assert status != 0 and message in " ".join(err.split()) and "Traceback" not in err, err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (flags(size=20, disc_downs=3), "multiple of 4 from 24 on, as 24, 28 or 32"),
        (flags(size=18), "multiple of 4 from 12 on, as 12, 16 or 20"),
        (flags(buffer=3, batch=4), "at least a batch (4)"),
        (flags(data="anime", data_dir="."), "has no attribute hair"),
        (flags(data="glasses", data_dir="."), "has no attribute hair"),
        (flags(data="nothing"), "nor a folder"),
        (flags(data="one"), "it has 1 (apples)"),
        (flags(data="three"), "it has 3 (a, b, c)"),
        (flags(data="flat"), "it has none"),
        (flags(data="few"), "no face of b for"),
        (flags(faces=1, size=16), "no face of"),
        (flags(faces=60, **{**SMALL, "batch": 64, "buffer": 64}), "fewer than a batch of 64"),
        (["sample", "--n", "0"], "--n must be at least 1"),
        (["sample"], "no finished run of exp_cyclegan_hair"),
    ],
)
def test_bad_input(call, tmp_path, words, message):
    place = dict(zip(words[::2], words[1::2], strict=False)).get("--data")
    kinds = {"one": ("apples",), "three": "abc"}
    if place in kinds:
        folder(tmp_path / place, kinds[place], n=30)
    elif place == "flat":
        folder(tmp_path, ("flat",), n=30)
    elif place == "few":
        folder(tmp_path / "few", ("a",), n=60)
        folder(tmp_path / "more", ("b",), n=1)
        (tmp_path / "more" / "b").rename(tmp_path / "few" / "b")
    bad_line(call(exp, *words), message)


def test_bad_use_of_a_run(call, finished):
    Image.new("RGB", (3, 40)).save("tiny.png")
    Path("broken.png").write_bytes(b"no picture")
    Image.new("RGB", (40, 40)).save("fine.png")
    for words, message in (
        (["--to", "red"], "--to red: this run translates into black or blond"),
        (["fine.png"], "a picture needs --to black or --to blond"),
        (["tiny.png", "--to", "blond"], "3 x 40 pixels"),
        (["broken.png", "--to", "blond"], "cannot read broken.png"),
        (["missing.png", "--to", "blond"], "cannot read missing.png"),
        (["fine.png", "--to", "blond", "--out", "no/where.png"], "there is no folder no"),
    ):
        bad_line(call(exp, "sample", "--run", finished, *words), message)
    (finished / "domains.json").unlink()
    bad_line(call(exp, "sample", "--run", finished), f"cannot read {finished / 'domains.json'}")
