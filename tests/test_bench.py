"""tests/bench: nn.Module and JAX have our models and our steps, the book's way trains and translates, the table."""

import fcntl
import json
import math
import sys
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch

from experiments import (
    exp_cgan_glasses,
    exp_dcgan_faces,
    exp_diffusion_flowers,
    exp_gan_curve,
    exp_gan_fashion,
    exp_gpt_hemingway,
    exp_lstm_novel,
)
from experiments import exp_transformer_fr as exp
from lib import diffusion as df
from lib import random, run, transformer, tree
from lib.data import batches, packing, tokens
from lib.models import dcgan, gpt, seq2seq, smollm, unet
from tests.bench import __main__ as bench
from tests.bench import book, diffusion, faces, gans, generation, gpu, language, measure, modules, turns

ARGS = replace(
    exp.PRESETS["book"], encoder_layers=1, decoder_layers=2, width=16, heads=2, ff=24, dropout=0.0, warmup=100,
    rows=3, length=24, weight_decay=0.1, clip=1.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other crawl on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(norm="layer", dropout=0.0):
    block = transformer.Config(width=ARGS.width, heads=ARGS.heads, ff=ARGS.ff, dropout=dropout, norm=norm)
    return seq2seq.Config(ARGS.encoder_layers, ARGS.decoder_layers, block, 50, 60, shared=False)


def corpus(pairs=100):
    """Made-up sentences of 2 to 8 tokens."""
    source = [[3 + (7 * i + j) % 47 for j in range(2 + i % 7)] for i in range(pairs)]
    return packing.Tokens(source, [[3 + (5 * i + j) % 57 for j in range(2 + i % 5)] for i in range(pairs)])


def three_batches(key):
    collate = partial(packing.collate, length=ARGS.length, start=tokens.START, end=tokens.END)
    data = packing.batches(corpus(), key, ARGS.rows, collate, ARGS.length)
    return [next(data) for _ in range(3)]


def shaken(state):
    """Away from the start, where every scale is 1 and every bias 0."""
    shake = lambda x: x + 0.1 * torch.sin(torch.arange(x.numel(), dtype=torch.float32)).reshape(x.shape)  # noqa: E731
    return state._replace(params=tree.map(shake, state.params))


def shaken_state(key, cfg, args):
    return shaken(exp.init_state(key, cfg, args))


@pytest.fixture
def jaxes():
    for name in measure.EXTRA:
        pytest.importorskip(name)
    from tests.bench import jaxes

    jaxes.use(torch.device("cpu"))
    return jaxes


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_module_has_our_loss_and_our_three_steps(key, norm):
    cfg, args = config(norm), replace(ARGS, norm=norm)
    state = shaken_state(key, cfg, args)
    model = modules.from_tree(state.params, cfg, args.length, args.smoothing)
    trainer = modules.Trainer(model, args, torch.float32, compiled=False)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    for batch in three_batches(key):
        state, out = exp.step(state, batch, cfg=cfg, args=args, dtype=torch.float32)
        torch.testing.assert_close(trainer.step(batch), out["train/loss"], rtol=1e-5, atol=1e-5)
    expected = modules.from_tree(state.params, cfg, args.length).state_dict()
    for name, p in model.state_dict().items():
        torch.testing.assert_close(p, expected[name], rtol=0, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}")
        assert not torch.equal(p, before[name]), name


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_jax_has_our_loss_and_our_three_steps(key, norm, jaxes):
    cfg, args = config(norm), replace(ARGS, norm=norm)
    state = shaken_state(key, cfg, args)
    model = modules.from_tree(state.params, cfg, args.length)
    trainer = jaxes.translation(model, cfg, args, torch.float32)
    before = weights(jaxes, trainer.state.model)
    assert before.keys() == model.state_dict().keys()
    for batch in three_batches(key):
        state, out = exp.step(state, batch, cfg=cfg, args=args, dtype=torch.float32)
        _, loss = trainer.step(jaxes.arrays(batch))
        assert float(loss) == pytest.approx(float(out["train/loss"]), rel=1e-5)
    expected = modules.from_tree(state.params, cfg, args.length).state_dict()
    for name, p in weights(jaxes, trainer.state.model).items():
        torch.testing.assert_close(p, expected[name], rtol=0, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}")
        assert not torch.equal(p, before[name]), name


def weights(jaxes, model):
    """The arrays of a JAX module as tensors, under nn.Module's names."""
    flat, _ = jaxes.jax.tree_util.tree_flatten_with_path(jaxes.eqx.filter(model, jaxes.eqx.is_array))
    return {jaxes.name(path): torch.tensor(jaxes.np.array(x)) for path, x in flat}


def test_jax_trains_in_bf16_with_dropout(key, jaxes):
    """With other draws in each step, parameters in fp32."""
    cfg, args = config(dropout=0.1), replace(ARGS, lr=0.0)
    model = modules.from_tree(seq2seq.init(key, cfg), cfg, args.length)
    trainer = jaxes.translation(model, cfg, args, torch.bfloat16)
    batch = jaxes.arrays(three_batches(key)[0])
    losses = [float(trainer.step(batch)[1]) for _ in range(3)]
    assert torch.tensor(losses).isfinite().all() and len(set(losses)) == 3
    assert all(p.dtype == torch.float32 for p in weights(jaxes, trainer.state.model).values())


def test_module_trains_in_bf16_with_dropout(key):
    cfg = config(dropout=0.1)
    model = modules.from_tree(seq2seq.init(key, cfg), cfg, ARGS.length, ARGS.smoothing)
    trainer = modules.Trainer(model, ARGS, torch.bfloat16, compiled=False)
    losses = [trainer.step(batch) for batch in three_batches(key)]
    assert all(loss.isfinite() for loss in losses)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_the_book_has_its_published_size():
    block = transformer.Config(width=256, heads=8, ff=1024, dropout=0.1)
    with torch.device("meta"):
        model = book.Book(seq2seq.Config(6, 6, block, 11_055, 11_239, shared=False))
    assert sum(p.numel() for p in model.parameters()) == 19_655_911  # docs/REFERENCE.md, chapter 10
    assert sum(p.numel() for p in [*model.encoder.parameters(), *model.encoder_norm.parameters()]) == 4_739_072
    assert sum(p.numel() for p in [*model.decoder.parameters(), *model.decoder_norm.parameters()]) == 6_321_152


def test_book_batches_are_sorted_padded_and_masked():
    data = corpus()
    order = book.batches(data, size=32)
    assert [len(chosen) for chosen in order] == [32, 32, 32, 4]
    lengths = [len(data.source[i]) for chosen in order for i in chosen]
    assert lengths == sorted(lengths)
    batch = book.pad(data, order[1], "cpu")
    assert int((batch.target_out != tokens.PAD).sum()) == sum(len(data.target[i]) + 1 for i in order[1])
    for row, i in enumerate(order[1]):
        n = len(data.target[i]) + 1
        assert batch.target_in[row, :n].tolist() == [tokens.START, *data.target[i]]
        assert batch.target_out[row, :n].tolist() == [*data.target[i], tokens.END]
        assert batch.source_mask[row, 0].sum() == len(data.source[i])
        assert torch.equal(batch.target_mask[row, n - 1].nonzero().flatten(), torch.arange(n))
        assert torch.equal(batch.target_mask[row, 0].nonzero().flatten(), torch.arange(1))


def test_book_loss_is_cross_entropy_with_its_smoothed_labels():
    logits = torch.sin(torch.arange(5 * 9.0)).reshape(5, 9)
    labels = torch.tensor([3, 8, tokens.PAD, 4, 1])
    wanted = torch.full((5, 9), 0.1 / 7).index_fill(1, torch.tensor([tokens.PAD]), 0.0)
    wanted[torch.arange(5), labels] = 0.9
    wanted = wanted[labels != tokens.PAD]
    cross = torch.nn.functional.cross_entropy(logits[labels != tokens.PAD], wanted, reduction="sum")
    entropy = -torch.xlogy(wanted, wanted).sum()
    torch.testing.assert_close(book.smoothed_loss(logits.log_softmax(dim=-1), labels), cross - entropy)


def test_the_books_way_trains_and_translates():
    torch.manual_seed(0)
    cfg, data = config(dropout=0.1), corpus()
    model = book.Book(cfg)
    trainer = book.Trainer(model, warmup=2)
    batch = book.pad(data, book.batches(data)[0], "cpu")
    losses = [float(trainer.step(batch)) for _ in range(5)]
    assert torch.tensor(losses).isfinite().all() and losses[-1] < losses[0]
    model.eval()
    free = book.translate(model, data.source[0])
    assert len(free) == book.MAX_TOKENS or free[-1] == tokens.END
    forced = book.translate(model, data.source[0], wanted=7)
    assert len(forced) == 7 and forced[: len(free)] == free[:7]


def test_both_ways_translate_as_many_tokens_as_asked(key):
    cfg, data = config(), corpus(150)
    wanted = [(source, 1 + i % 6) for i, source in enumerate(data.source)]
    out = book.all_at_once(seq2seq.init(key, cfg), wanted, cfg, ARGS.length)
    assert [len(ids) for ids in out] == [n for _, n in wanted]
    out = book.one_by_one(book.Book(cfg).eval(), wanted[:9])
    assert [len(ids) for ids in out] == [n for _, n in wanted[:9]]


def cells(text):
    """Of a Markdown table, each line as long as the first."""
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert all(len(line) == len(table[0]) for line in table)
    return table


def test_ratios_are_medians_over_rounds():
    """Not ratios of medians."""
    measured = {
        "nn.Module, compiled": measure.Measured([1.0, 2.0, 4.0], 9.0, 3.0, 1000.0),
        "ours, compiled": measure.Measured([0.5, 2.0, 1.0], 20.0, 5.0, 1100.0),
        measure.JAX: measure.Measured([1.0, 1.0, 1.0], 7.0, None, 1234.5),
    }
    table = cells(measure.markdown(measure.HEAD, measure.rows("a step", measured)))
    assert table[3] == ["a step", "ours, compiled", "1000 (500-2000)", "0.5", "1", "1,100", "20.0", "5.0"]
    assert table[4] == ["a step", measure.JAX, "1000 (1000-1000)", "0.5", "1", "1,234", "7.0", ""]
    del measured[measure.JAX]
    assert [line[4] for line in measure.rows("a step", measured)] == ["", ""]


def test_the_table_replaces_what_stands_between_its_markers(tmp_path):
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n")
    for text in ("old", "new"):
        measure.put(text, path)
    whole = "# Results\n\n## just bench, one table\n\n<!-- bench -->\nnew\n<!-- /bench -->\n"
    assert path.read_text() == whole
    path.write_text(whole + "\nmore\n")
    measure.put("newer", path)
    assert path.read_text() == whole.replace("new", "newer") + "\nmore\n"


def test_bench_step_prints_the_eager_peers(monkeypatch, capsys):
    """The peaks are of processes of their own."""
    sizes = {"width": 16, "layers": 1, "heads": 2, "ff": 16, "vocabulary": 300, "rows": 2, "length": 32, "rounds": 1}
    flags = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["bench", "step", *flags, "--no-compile", "--device", "cpu"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    bench.main()
    out = capsys.readouterr().out
    table = cells(out)
    assert [line[1] for line in table[2:]] == ["nn.Module, eager", "ours, eager"]
    assert all(float(line[5].replace(",", "")) > 50 for line in table[2:])  # peak MiB
    assert f"torch {torch.__version__}" in out


# ---- adversarial steps ----


@pytest.fixture
def small(monkeypatch):
    """The GANs' presets, of a few weights."""
    changes = {"generator": (8, 6), "discriminator": (7, 5), "batch": 8, "points": 50}
    monkeypatch.setitem(exp_gan_curve.PRESETS, "book", replace(exp_gan_curve.PRESETS["book"], **changes))
    changes = {"width": 4, "latent": 6, "batch": 4}
    monkeypatch.setitem(exp_gan_fashion.PRESETS, "small", replace(exp_gan_fashion.PRESETS["small"], **changes))
    for ours, more in ((exp_dcgan_faces, {}), (exp_cgan_glasses, {"critic_width": 8})):
        monkeypatch.setitem(ours.PRESETS, "small", replace(ours.PRESETS["small"], size=16, **changes, **more))
    monkeypatch.setattr(faces, "PICTURES", 16)


@pytest.fixture
def networks(small, monkeypatch):
    """(ours, our state, generator, discriminator) of an experiment as the bench makes them, away from the start."""

    def make(ours, step):
        states, init = [], ours.init_state

        def shaken(key, args):
            """Batch normalisation as it starts: the modules' own."""
            shake = lambda name, x: x if "norm" in name else x + 0.1 * torch.sin(torch.arange(x.numel())).view_as(x)  # noqa: E731
            state = init(key, args)
            states.append(state._replace(params=tree.map_with_path(shake, state.params)))
            return states[0]

        made = []
        monkeypatch.setattr(ours, "init_state", shaken)
        monkeypatch.setattr(gans, "Trainer", lambda *args: made.append(args[:2]))
        step("nn.Module, eager", torch.device("cpu"), torch.float32)
        return states[0], *made[0]

    return make


def test_modules_of_the_dcgan_draw_and_judge_as_ours(networks, key):
    state, generator, discriminator = networks(exp_gan_fashion, gans.fashion_step)
    args, label = exp_gan_fashion.PRESETS["small"], torch.zeros(5, dtype=torch.int64)
    z, close = random.normal(key, (5, args.latent)), partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
    x, _ = exp_gan_fashion.generate(state.params.g, state.model.g, z, label, args=args, train=True)
    close(generator(z), x)
    logits, _ = exp_gan_fashion.discriminate(state.params.d, state.model.d, x, label, key, args=args)
    close(discriminator(x), logits)
    assert x.std() > 1e-3 and logits.std() > 1e-4


def test_modules_of_the_curve_draw_and_judge_as_ours(networks, key):
    state, generator, discriminator = networks(exp_gan_curve, gans.curve_step)
    args, close = exp_gan_curve.PRESETS["book"], partial(torch.testing.assert_close, atol=1e-6, rtol=1e-5)
    u = exp_gan_curve.generate(state.params.g, z := random.normal(key, (50, args.latent)), args=args)
    close(generator(z), u)
    close(discriminator.eval()(u), exp_gan_curve.discriminate(state.params.d, u, args=args))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_modules_of_the_faces_draw_and_judge_as_ours(key, norm):
    shake = lambda name, x: x if "norm" in name else x + 0.1 * torch.sin(torch.arange(x.numel())).view_as(x)  # noqa: E731
    (g, s_g), (d, s_d) = dcgan.generator_init(key, 6, 8, 16, 3), dcgan.discriminator_init(key, 4, 8, 16, norm)
    g, d = (tree.map_with_path(shake, p) for p in (g, d))
    z, close = random.normal(key, (5, 6)), partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
    label = random.normal(key, (5, 3))
    x, _ = dcgan.generate(g, s_g, z, label, train=True)
    close(faces.Generator(g)(z, label), x)
    assert (x - dcgan.generate(g, s_g, z, train=True)[0]).abs().max() > 1e-3
    x = torch.cat([x, x[:, :1]], 1)
    module = {"batch": torch.nn.BatchNorm2d, "group": partial(torch.nn.GroupNorm, dcgan.GROUPS)}[norm]
    scores, _ = dcgan.discriminate(d, s_d, x, norm=norm)
    close(faces.Discriminator(d, module)(x), scores)
    assert x.std() > 1e-3 and scores.std() > 1e-4


@pytest.fixture
def in_jax(networks, jaxes, monkeypatch):
    """The networks that the bench trains in JAX, as functions of torch's tensors, and ours' state."""
    from tests.bench import jaxgans

    def make(ours, step):
        made = []
        state, *_ = networks(ours, step)
        monkeypatch.setattr(jaxgans, "adversarial", lambda networks, *_: made.append(networks))
        step(measure.JAX, torch.device("cpu"), torch.float32)
        call = lambda f, run: lambda x: torch.tensor(jaxes.np.array(f(jaxes.arrays(x), run, jaxes.random.key(0))[0]))  # noqa: E731
        return state, call(made[0].generator, made[0].running_g), call(made[0].discriminator, made[0].running_d)

    return make


def test_jax_dcgan_draws_and_judges_as_ours(in_jax, key):
    state, generator, discriminator = in_jax(exp_gan_fashion, gans.fashion_step)
    args, label = exp_gan_fashion.PRESETS["small"], torch.zeros(5, dtype=torch.int64)
    z, close = random.normal(key, (5, args.latent)), partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
    x, _ = exp_gan_fashion.generate(state.params.g, state.model.g, z, label, args=args, train=True)
    close(generator(z), x)
    logits, _ = exp_gan_fashion.discriminate(state.params.d, state.model.d, x, label, key, args=args)
    close(discriminator(x), logits)


def test_jax_curve_draws_and_judges_as_ours(in_jax, key, monkeypatch):
    preset = replace(exp_gan_curve.PRESETS["book"], dropout=0.0)  # the networks are in training mode
    monkeypatch.setitem(exp_gan_curve.PRESETS, "book", preset)
    state, generator, discriminator = in_jax(exp_gan_curve, gans.curve_step)
    close = partial(torch.testing.assert_close, atol=1e-6, rtol=1e-5)
    u = exp_gan_curve.generate(state.params.g, z := random.normal(key, (50, preset.latent)), args=preset)
    close(generator(z), u)
    close(discriminator(u), exp_gan_curve.discriminate(state.params.d, u, args=preset))


@pytest.mark.parametrize("experiment", gans.STEPS)
def test_jax_takes_adversarial_steps(small, jaxes, experiment):
    train = gans.STEPS[experiment][0](measure.JAX, torch.device("cpu"), torch.bfloat16)
    losses = [[float(x) for x in train(n)[1]] for n in range(3)]
    assert torch.tensor(losses).isfinite().all() and losses[0] != losses[1]


# ---- language models ----

GPT = replace(
    language.GPTS["cpu"], layers=2, width=16, heads=2, ff=24, vocabulary=256, rows=3, length=7, steps=6, warmup=2
)
LSTM = replace(
    exp_lstm_novel.PRESETS["small"], embedding=6, hidden=8, vocabulary=300, dropout=0.0, rows=3, length=7, steps=22,
    clip=0.05,
)  # fmt: skip


def gpt_start(key):
    """(our state, our step, the module of a state)."""
    cfg = language.gpt_config(GPT)
    step = partial(exp_gpt_hemingway.step, cfg=cfg, args=GPT, dtype=torch.float32)
    return shaken(exp_gpt_hemingway.init_state(key, cfg, GPT)), step, lambda state: language.Gpt(state.params, cfg)


def lstm_start(key):
    """The same; our step takes a window of tokens."""
    fresh = torch.zeros(LSTM.rows, dtype=torch.bool)
    step = lambda state, ids: exp_lstm_novel.step(state, batches.Window(ids, fresh), args=LSTM, dtype=torch.float32)  # noqa: E731
    state = shaken(exp_lstm_novel.init_state(key, LSTM.vocabulary, LSTM))
    return state, step, lambda state: language.Lstm(state.params, LSTM)


def windows(args):
    """Three, of made-up tokens."""
    return language.made_up(args, torch.device("cpu"))[:3]


def in_step(state, step, another, args):
    """Our state after three steps whose losses are another's."""
    for window in windows(args):
        state, out = step(state, window)
        assert float(another(window)) == pytest.approx(float(out["train/loss"]), rel=1e-5)
    return state


def assert_trained_alike(weights, expected, before):
    """All but the keys' biases, which change no loss: of rounding errors, their gradients, Adam makes whole steps."""
    for name, p in weights.items():
        p, wanted, start = (
            torch.cat([x.chunk(3)[0], x.chunk(3)[2]]) if name.endswith("qkv.bias") else x
            for x in (p, expected[name], before[name])
        )
        torch.testing.assert_close(p, wanted, rtol=0, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}")
        assert torch.equal(p, start) == ("bias_hh" in name), name


def copied(model):
    return {name: p.clone() for name, p in model.state_dict().items()}


def test_module_of_the_gpt_has_our_logits_and_our_three_steps(key):
    state, step, module = gpt_start(key)
    model, ids = module(state), windows(GPT)[0][:, :-1]
    ours = gpt.apply(state.params, ids, cfg=language.gpt_config(GPT))
    torch.testing.assert_close(model.logits(ids), ours, atol=1e-5, rtol=1e-5)
    before, trainer = copied(model), language.gpt_trainer(model, GPT, torch.float32, compiled=False)
    state = in_step(state, step, trainer.step, GPT)
    assert_trained_alike(model.state_dict(), module(state).state_dict(), before)


def test_module_of_the_lstm_has_our_logits_and_our_three_steps(key):
    state, step, module = lstm_start(key)
    model, ids = module(state), windows(LSTM)[0][:, :-1]
    carry = tree.map(lambda x: torch.sin(torch.arange(x.numel())).reshape(x.shape), state.carry)
    logits, end = exp_lstm_novel.apply(state.params, ids, carry, args=LSTM)
    theirs, its_end = model.logits(ids, tuple(x.transpose(0, 1).contiguous() for x in carry))
    for x, y in [(theirs, logits), *((x.transpose(0, 1), y) for x, y in zip(its_end, end, strict=True))]:
        torch.testing.assert_close(x, y, atol=1e-6, rtol=1e-5)
    before, trainer = copied(model), language.lstm_trainer(model, LSTM, torch.float32, compiled=False)
    state = in_step(state, step, trainer.step, LSTM)
    assert_trained_alike(model.state_dict(), module(state).state_dict(), before)
    for x, y in zip(trainer.carry, state.carry, strict=True):
        torch.testing.assert_close(x.transpose(0, 1), y, atol=1e-6, rtol=1e-5)


@pytest.fixture
def jaxlanguage(jaxes):
    from tests.bench import jaxlanguage

    return jaxlanguage


def test_jax_gpt_has_our_loss_and_our_three_steps(key, jaxes, jaxlanguage):
    state, step, module = gpt_start(key)
    trainer = jaxlanguage.gpt(module(state), language.gpt_config(GPT), GPT, torch.float32)
    before = weights(jaxes, trainer.state.model)
    assert before.keys() == dict(module(state).named_parameters()).keys()
    state = in_step(state, step, lambda window: trainer.step(jaxes.arrays(window))[1], GPT)
    assert_trained_alike(weights(jaxes, trainer.state.model), module(state).state_dict(), before)


def test_jax_lstm_has_our_loss_and_our_three_steps(key, jaxes, jaxlanguage):
    state, step, module = lstm_start(key)
    trainer = jaxlanguage.lstm(module(state), LSTM, torch.float32)
    before = weights(jaxes, trainer.state.model)
    state = in_step(state, step, lambda window: trainer.step(jaxes.arrays(window))[1], LSTM)
    expected = jaxlanguage.lstm_weights(module(state))
    assert before.keys() == expected.keys()
    assert_trained_alike(weights(jaxes, trainer.state.model), expected, before)
    for x, y in zip(trainer.state.carry, state.carry, strict=True):
        torch.testing.assert_close(torch.tensor(jaxes.np.array(x)), y, atol=1e-6, rtol=1e-5)


@pytest.fixture
def tiny(monkeypatch):
    """The language models, of a few weights, the LSTM with dropout."""
    monkeypatch.setitem(language.GPTS, "cpu", GPT)
    monkeypatch.setitem(exp_lstm_novel.PRESETS, "small", replace(LSTM, dropout=0.3))


@pytest.mark.parametrize("experiment", language.STEPS)
def test_modules_take_language_steps_in_bf16(tiny, experiment):
    if experiment == "exp_lstm_novel" and run.dtype(run.Args(), torch.device("cpu")) != torch.bfloat16:
        pytest.skip("torch's LSTM has no bf16 on a CPU without AVX-512 BF16 or AMX")
    train = language.STEPS[experiment][0]("nn.Module, eager", torch.device("cpu"), torch.bfloat16)
    losses = [float(train(n * language.BATCHES)) for n in range(3)]  # on one batch
    assert torch.tensor(losses).isfinite().all() and len(set(losses)) == 3


@pytest.mark.parametrize("experiment", language.STEPS)
def test_jax_takes_language_steps_in_bf16(tiny, jaxes, experiment):
    train = language.STEPS[experiment][0](measure.JAX, torch.device("cpu"), torch.bfloat16)
    losses = [float(train(n * language.BATCHES)[1]) for n in range(3)]  # on one batch
    assert torch.tensor(losses).isfinite().all() and len(set(losses)) == 3


# ---- diffusion ----

FLOWERS = replace(
    exp_diffusion_flowers.PRESETS["small"], size=8, widths=(16, 64), batch=4, steps=6, warmup=2, clip=0.5, lr=1e-3,
    muon_lr=0.0, ema_decay=0.2, weight_decay=1.0,
)  # fmt: skip


@pytest.fixture
def drawing(monkeypatch):
    """The diffusion model, of a few weights."""
    monkeypatch.setitem(exp_diffusion_flowers.PRESETS, "small", FLOWERS)
    monkeypatch.setattr(faces, "PICTURES", 16)


def flowers_start(key):
    """Our state, away from its start, where the network predicts nothing; the average begins there too."""
    state = shaken(exp_diffusion_flowers.init_state(key, FLOWERS))
    return state._replace(ema=state.params)


def our_draws(state, x):
    """The pictures, levels and noise of our next step."""
    k_level, k_noise, k_flip = random.split(random.fold_in(state.key, state.step), 3)
    x = torch.where(random.bernoulli(k_flip, 0.5, (len(x), 1, 1, 1)), x.flip(-1), x)
    return (
        x,
        df.lognormal(k_level, len(x), math.log(FLOWERS.noise[0]), FLOWERS.noise[1]),
        random.normal(k_noise, tuple(x.shape)),
    )


def flowers_in_step(state, another):
    """Our state after four steps whose losses are another's, which is given (state, pixels, index)."""
    pixels = faces.noise(FLOWERS.size, torch.device("cpu"))
    for index in torch.arange(16).view(4, 4):
        loss = float(another(state, pixels, index))
        state, out = exp_diffusion_flowers.step(state, index, pixels, args=FLOWERS, dtype=torch.float32)
        assert loss == pytest.approx(float(out["train/loss"]), rel=1e-5)
    return state


def assert_moved_alike(weights, expected, before):
    """By the length of the difference: of small gradients Adam makes whole steps, of their rounding errors as well."""
    for name, p in weights.items():
        wrong, moved = (p - expected[name]).norm(), (expected[name] - before[name]).norm()
        assert moved > 0 and wrong < 5e-3 * moved, f"{name}: {wrong} of {moved}"


def test_module_of_the_unet_predicts_as_ours(key):
    """Also with several blocks at a level, all with attention."""
    args = replace(FLOWERS, blocks=2, attention=2)
    cfg, params = args.network(), shaken(exp_diffusion_flowers.init_state(key, args)).params
    x, noise = random.normal(key, (3, 3, 8, 8)), torch.linspace(-1, 1, 3)
    ours = unet.apply(params, x, noise, cfg=cfg)
    torch.testing.assert_close(diffusion.UNet(params, cfg).predicted(x, noise), ours, atol=1e-5, rtol=1e-5)
    assert ours.std() > 0.1


def test_module_of_the_unet_has_our_loss_and_our_four_steps(key, drawing):
    state = flowers_start(key)
    start, model = diffusion.weights(state.params), diffusion.UNet(state.params, FLOWERS.network())
    trainer = diffusion.Trainer(model, FLOWERS, torch.float32, compiled=False)
    draws = lambda state, pixels, index: our_draws(state, pixels[index] / 127.5 - 1)  # noqa: E731
    state = flowers_in_step(state, lambda *given: trainer.step(*draws(*given)))
    assert_moved_alike(model.state_dict(), diffusion.weights(state.params), start)
    assert_moved_alike(trainer.average.state_dict(), diffusion.weights(state.ema), start)


def test_jax_unet_has_our_loss_and_our_four_steps(key, drawing, jaxes):
    from tests.bench import jaxdiffusion

    state = flowers_start(key)
    trainer = jaxdiffusion.trainer(state, FLOWERS, torch.float32)
    named = lambda params: jaxdiffusion.of_convolutions(diffusion.weights(params))  # noqa: E731
    start = named(state.params)
    assert weights(jaxes, trainer.state.model).keys() == start.keys()
    state = flowers_in_step(state, lambda _, *given: trainer.step(*map(jaxes.arrays, given))[1])
    assert_moved_alike(weights(jaxes, trainer.state.model), named(state.params), start)
    assert_moved_alike(weights(jaxes, trainer.state.average), named(state.ema), start)


@pytest.mark.parametrize("peer", ["nn.Module, eager", "ours, eager", measure.JAX])
def test_diffusion_steps_in_bf16(drawing, request, peer):
    if peer == measure.JAX:
        request.getfixturevalue("jaxes")
    train = diffusion.unet_step(peer, torch.device("cpu"), torch.bfloat16)
    results = [train(0) for _ in range(3)]
    if peer not in measure.OURS:  # whose losses the bench does not see
        losses = [float(x[1] if peer == measure.JAX else x) for x in results]
        assert torch.tensor(losses).isfinite().all() and len(set(losses)) == 3


def test_bench_prints_one_table_and_writes_it(small, tiny, drawing, monkeypatch, capsys, tmp_path):
    sizes = {"width": 16, "layers": 1, "heads": 2, "ff": 16, "vocabulary": 300, "rows": 2, "length": 32, "rounds": 1}
    flags = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    for family in (gans, faces, language, diffusion):
        monkeypatch.setattr(family, "STEPS", {name: (make, 1) for name, (make, _) in family.STEPS.items()})
    monkeypatch.setattr(measure, "alone", lambda fn, *args, device: fn(*args))  # not in a process of its own
    path = tmp_path / "RESULTS.md"
    words = [*flags, "--no-compile", "--device", "cpu", "--results", str(path)]
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    bench.main()
    out = capsys.readouterr().out
    table = cells(out)
    assert [line[:2] for line in table[2:]] == [
        [name, peer]
        for name in ("exp_transformer_fr", *gans.STEPS, *faces.STEPS, *language.STEPS, *diffusion.STEPS)
        for peer in ("nn.Module, eager", "ours, eager")
    ]
    assert all(float(line[5].replace(",", "")) > 50 for line in table[2:])  # peak MiB
    assert f"`python -m tests.bench {' '.join(words)}`" in out
    assert out.strip() in path.read_text()


@pytest.mark.parametrize("name", ["language", "diffusion"])
def test_bench_of_a_family_prints_its_steps(tiny, drawing, monkeypatch, capsys, name):
    monkeypatch.setattr(measure, "alone", lambda fn, *args, device: fn(*args))
    monkeypatch.setattr(sys, "argv", ["bench", name, "--no-compile", "--device", "cpu", "--rounds", "1"])
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    bench.main()
    table = cells(capsys.readouterr().out)
    steps = {"language": language, "diffusion": diffusion}[name].STEPS
    assert [line[0] for line in table[2:]] == [step for step in steps for _ in range(2)]


def test_bench_generation_prints_both_ways(tiny_llama, monkeypatch, capsys):
    """Which write the same, as told by transformers' generate."""
    pytest.importorskip("transformers")
    model = smollm.load(str(tiny_llama))
    monkeypatch.setattr(smollm, "load", lambda **_: model)
    monkeypatch.setattr(generation, "CASES", [generation.Case(1, 9, 20), generation.Case(3, 4, 16)])
    words = ["bench", "generation", "--no-compile", "--device", "cpu", "--precision", "fp32", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", words)
    bench.main()
    table = cells(capsys.readouterr().out)
    assert [line[:3] for line in table[2:]] == [
        [b, n, peer] for b, n in (("1", "9 + 20"), ("3", "4 + 16")) for peer in ("transformers", "ours, eager")
    ]
    assert all(line[8] == "100 %" for line in table[2:]) and [line[4] for line in table[2::2]] == ["1", "1"]
    assert all(float(line[i]) > 0 for line in table[2:] for i in (5, 6, 7))


# ---- just gpu ----


def test_a_dry_run_of_just_gpu(tmp_path):
    """Every stage but those that the other tests are: a line for each, no failure, and the table in its place."""
    only = ("ceilings", "draws", "steps", "gpt2", "translation", "attention", "replicas", "bench exp_gan_curve")
    with pytest.raises(SystemExit) as ended:
        gpu.main(gpu.Gpu(dry=True, only=only, out=tmp_path / "out", results=tmp_path / "RESULTS.md"))
    lines = [json.loads(line) for line in (tmp_path / "out" / "gpu.jsonl").read_text().splitlines()]
    assert ended.value.code == 0 and not [line for line in lines if line["stage"] == "failed"]
    stages = Counter(line["stage"] for line in lines)
    assert stages == {
        "environment": 1, "ceilings": 4, "draws": 9, "steps": 2, "gpt2": 6, "gpt2.kernels": 6, "translation": 8,
        "translation.kernels": 8, "attention": 3, "replicas": 4, "bench": 2,
    }  # fmt: skip
    of_draws = [line for line in lines if line["stage"] == "draws"]
    assert all(line["eager"] == line["vmap"] == "equal" for line in of_draws)
    assert all(line["from_cpu"] == line["twice"] == 0 for line in lines if line["stage"] == "steps")
    peers = {line["peer"]: line["first_loss"] for line in lines if "first_loss" in line}
    assert peers["ours, compiled"] == pytest.approx(peers["nn.Module, compiled"], rel=1e-5)
    assert (tmp_path / "RESULTS.md").read_text().count("| gpt2 300 |") == 6


def test_a_stage_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(gpu.STAGES, "attention", lambda args: 1 / 0)
    with pytest.raises(SystemExit) as ended:
        gpu.main(gpu.Gpu(dry=True, only=("attention", "bench exp_gan_curve"), out=tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert ended.value.code == 1 and [line["stage"] for line in lines] == ["failed", "bench", "bench"]
    assert "ZeroDivisionError" in lines[0]["error"]


def test_a_stage_in_a_process_of_its_own(tmp_path):
    """Its words may look like flags; what it prints is in a log, and a bad one is a line with the log's end."""
    args = gpu.Gpu(dry=True, out=tmp_path)
    turns.wait([turns.Child(args, ["draws", "--no-such-flag"], 0)], turns.now() + 100)
    line = json.loads((tmp_path / "gpu.jsonl").read_text().splitlines()[-1])
    assert line["stage"] == "failed" and line["rc"] and "TypeError" in " ".join(line["last"])


def test_without_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU here; --dry"):
        gpu.main(gpu.Gpu(out=tmp_path))
    with pytest.raises(ValueError, match="no such stage; there are ceilings"):
        gpu.Gpu(only=("nothing",))


def test_a_turn_lasts_as_long_as_the_process(tmp_path):
    turns.Turn(gpu.Gpu(out=tmp_path), exclusive=False).take()
    try:
        with open(tmp_path / "lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        turns.HELD.pop().close()


def test_what_just_gpu_counts_as_wrong():
    fine = [
        {"stage": "tests", "rc": 0},
        {"stage": "draws", "name": "normal", "eager": "9 of 10 differ, by 1e-07 at most"},
    ]
    bad = [{"stage": "tests", "rc": None}, {"stage": "draws", "eager": "TypeError: no"}, {"stage": "out of time"}]
    assert not any(map(gpu.wrong, fine)) and all(map(gpu.wrong, bad))
