"""lib/models/gpt.py: causality by gradient, positions, cached generation, scoring each token once, one graph."""

import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters
from torch.func import vmap

from lib import random, transformer, tree
from lib.models import gpt
from lib.transform import jit, value_and_grad

V, CONTEXT = 19, 8
POSITIONS = ("sinusoidal", "learned", "rotary", "relative")


def config(position="rotary", head="tied", **block):
    values = {"norm": "rms", "activation": "swiglu", "bias": "none", "position": position, **block}
    values |= {"reach": CONTEXT} if position == "relative" else {}
    return gpt.Config(V, CONTEXT, 2, transformer.Config(width=16, heads=2, ff=24, **values), head)


def book(position="learned"):
    return config(position, "untied", norm="layer", activation="gelu", bias="all")


CONFIGS = {"book": book(), **{position: config(position) for position in POSITIONS}}


def make(key, cfg):
    """Parameters large enough that every logit matters."""
    p = gpt.init(key, cfg)
    keys = iter(random.split(random.fold_in(key, 1), len(tree.leaves(p))))
    return tree.map(lambda x: 5 * x + 0.1 * random.normal(next(keys), tuple(x.shape)), p)


def some(key, b=2, t=CONTEXT):
    return random.randint(random.fold_in(key, 2), (b, t), 0, V).long()


# ---- parameters ----


@pytest.mark.parametrize(
    "cfg",
    [
        *CONFIGS.values(), config(kv_heads=1, bias="ff"), config(head="untied", order="post", activation="relu"),
        config(kv_heads=1, bias="attention", activation="geglu"),
    ],
)  # fmt: skip
def test_shapes_are_those_of_new_parameters(key, cfg):
    shapes, new = tree.flatten(gpt.shapes(cfg)), tree.flatten(gpt.init(key, cfg))
    assert [*shapes] == [*new] and all(x.device.type == "meta" for x in shapes.values())
    assert {path: x.shape for path, x in shapes.items()} == {path: x.shape for path, x in new.items()}


def test_the_books_number_of_parameters(key):
    block = transformer.Config(
        width=256, heads=4, ff=1024, dropout=0.1, norm="layer", activation="gelu", position="learned", bias="all"
    )
    p = gpt.init(random.key(0, "meta"), gpt.Config(10_600, 128, 3, block, "untied"))  # shapes alone
    assert tree.size(p) == 7_829_760 and tree.size(p) - p["embed"]["head"].numel() == 5_116_160  # printed: 5.12 M
    assert gpt.matmul_weights(p) == p["embed"]["head"].numel() + tree.size(p["decoder"])


@pytest.mark.parametrize("name", CONFIGS)
def test_a_tied_head_is_one_leaf(key, name):
    p = gpt.init(key, CONFIGS[name])
    expected = {"embed.tokens"} | ({"embed.head", "embed.positions"} if name == "book" else set())
    expected |= {"embed.positions"} if name == "learned" else set()
    assert {path for path in tree.flatten(p) if path.startswith("embed")} == expected
    assert gpt.head(p) is p["embed"]["head" if name == "book" else "tokens"]


def test_new_weights_have_their_spread(key):
    cfg = gpt.Config(
        500,
        64,
        8,
        transformer.Config(width=64, heads=4, ff=256, norm="layer", position="learned", bias="all"),
        "untied",
    )
    for path, x in tree.flatten(gpt.init(key, cfg)).items():
        if x.ndim < 2:
            assert torch.equal(x, torch.ones_like(x) if path.endswith("scale") else torch.zeros_like(x)), path
        else:
            expected = 0.02 / 4 if path.endswith(("attn.w_o", "ff.out.w")) else 0.02  # 4 = sqrt(2 * 8 layers)
            assert abs(float(x.std()) / expected - 1) < 0.05, path


@pytest.mark.parametrize("name", CONFIGS)
def test_a_gradient_reaches_every_leaf(key, name):
    cfg, ids = CONFIGS[name], some(key)
    loss = lambda p: F.cross_entropy(gpt.apply(p, ids, cfg=cfg).flatten(0, 1), ids.flatten())  # noqa: E731
    for path, g in tree.flatten(value_and_grad(loss)(make(key, cfg))[1]).items():
        if path.endswith("b_k"):  # adds the same to every score of a query
            torch.testing.assert_close(g, torch.zeros_like(g), rtol=0, atol=1e-5)
        else:
            assert g.isfinite().all() and g.any(), path


# ---- what depends on what ----


@pytest.mark.parametrize("name", CONFIGS)
def test_causality_by_gradient(key, name):
    cfg, ids = CONFIGS[name], some(key, b=1)
    p = make(key, cfg)
    table = p["embed"]["tokens"]
    head = {**p, "embed": {**p["embed"], "head": table}}  # the head's own gradient is not asked for

    def at(rows, t):  # each position has an entry of its own in the table
        embed = {**head["embed"], "tokens": rows}
        return gpt.apply({**head, "embed": embed}, torch.arange(CONTEXT)[None], cfg=cfg)[0, t].square().sum()

    rows = table[ids[0]]
    influence = torch.stack([value_and_grad(at)(rows, t)[1].abs().sum(1) for t in range(CONTEXT)])
    assert torch.equal(influence != 0, torch.ones(CONTEXT, CONTEXT).tril() == 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_order_of_tokens_matters(key, name):
    cfg, p = CONFIGS[name], make(key, CONFIGS[name])
    a, b = (gpt.apply(p, torch.tensor([ids]), cfg=cfg)[0, -1] for ids in ([1, 2, 3, 4], [2, 3, 1, 4]))
    assert not torch.allclose(a, b, atol=1e-2)


def test_more_tokens_than_the_context_are_refused(key):
    with pytest.raises(ValueError, match=r"9 tokens .* 8"):
        gpt.apply(make(key, config()), some(key, t=CONTEXT + 1), cfg=config())


# ---- training ----


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_vmap_and_is_one_graph(key, name):
    cfg, ids = CONFIGS[name], some(key)
    keys = random.split(key, 2)
    ps = [make(k, cfg) for k in keys]
    each = [gpt.apply(p, ids, cfg=cfg) for p in ps]
    torch.testing.assert_close(vmap(lambda p: gpt.apply(p, ids, cfg=cfg))(tree.stack(ps)), torch.stack(each))
    torch._dynamo.reset()
    counters.clear()
    loss = lambda p: F.cross_entropy(gpt.apply(p, ids, cfg=cfg).flatten(0, 1), ids.flatten())  # noqa: E731
    step = lambda p: (tree.map(lambda x, g: x - g, p, value_and_grad(loss)(p)[1]), None)  # noqa: E731
    new, _ = jit(step, donate=False, backend="aot_eager")(ps[0])
    assert counters["stats"]["unique_graphs"] == 1
    for a, b in zip(tree.leaves(new), tree.leaves(step(ps[0])[0]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# ---- scoring ----


@pytest.mark.parametrize("n, length", list(itertools.product((1, 2, 5, 8, 9, 10, 23, 64), (1, 2, 5, 8))))
def test_each_token_is_scored_once(n, length):
    ids, scored = torch.arange(n), []
    for window, skip in gpt.scored_once(ids, length):
        assert len(window) == min(n, length + 1)
        assert skip == 0 or skip >= length // 2  # what it sees before the first that counts
        scored += window[1 + skip :].tolist()
    assert scored == list(range(1, n))


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_nats_are_those_of_the_windows(key, rows):
    cfg, ids = config(), some(key, 1, 30)[0]
    p = make(key, cfg)
    total = 0.0
    for i in range(1, 30):  # token after token: the first eight see all before them, then windows 4 apart
        first = 0 if i <= 8 else (i - 1) // 4 * 4 - 4
        first = min(first, 29 - 8)
        context = ids[first:i]
        total -= float(gpt.apply(p, context[None], cfg=cfg)[0, -1].log_softmax(0)[ids[i]])
    assert gpt.nats(p, ids, cfg=cfg) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("t", [1, 5, CONTEXT])
@pytest.mark.parametrize("behind", [1, 4, CONTEXT + 3])
def test_forced_logits_are_those_a_text_was_written_with(key, t, behind):
    """A greedy text of several contexts: each token is the likeliest where the context has slid as it did then."""
    cfg, prompt = CONFIGS["book"], some(key, 1, t)
    p = make(key, cfg)
    made = torch.cat([*itertools.islice(gpt.generate(p, prompt, cfg=cfg), 4 * CONTEXT)])
    ids = torch.cat([prompt[0], made])
    found = torch.cat([*gpt.forced(p, ids, behind, cfg=cfg)])
    assert found.shape == (len(ids) - behind, V)
    written = max(t - behind, 0)
    assert found[written:].argmax(-1).equal(ids[max(t, behind) :])


def test_a_large_vocabulary_is_scored_row_by_row(key, monkeypatch):
    """Few logits at once, the same sum."""
    cfg, ids = config(), some(key, 1, 60)[0]
    p, seen, apply = make(key, cfg), [], gpt.apply
    monkeypatch.setattr(gpt, "apply", lambda p, ids, **more: seen.append(len(ids)) or apply(p, ids, **more))
    whole = gpt.nats(p, ids, cfg=cfg)
    for logits, rows in ((2 * V * CONTEXT, 2), (1, 1)):
        seen.clear()
        monkeypatch.setattr(gpt, "LOGITS", logits)
        assert gpt.nats(p, ids, cfg=cfg) == pytest.approx(whole, rel=1e-6) and max(seen) == rows


# ---- generation ----


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("prompt", [1, 3, CONTEXT])
def test_cached_generation_equals_uncached(key, name, prompt):
    """Past the context too, where the last half of it is read again."""
    cfg, p = CONFIGS[name], make(key, CONFIGS[name])
    ids = some(key, t=prompt)
    found = torch.stack([t for _, t in zip(range(2 * CONTEXT), gpt.generate(p, ids, cfg=cfg), strict=False)], dim=1)
    seen = ids
    for n in range(2 * CONTEXT):
        seen = seen[:, -CONTEXT // 2 :] if seen.shape[1] > CONTEXT else seen
        token = gpt.apply(p, seen, cfg=cfg)[:, -1].argmax(-1)
        assert torch.equal(token, found[:, n]), n
        seen = torch.cat([seen, token[:, None]], dim=1)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("room", [0, 1, 3, 4, CONTEXT, 1000])
def test_with_less_room_the_same_is_generated(key, name, room):
    """As many tokens as there is room for, more than that, and past the context."""
    cfg, p, ids = CONFIGS[name], make(key, CONFIGS[name]), some(key, t=3)
    ways = [gpt.generate(p, ids, random.fold_in(key, 3), cfg=cfg, **more) for more in ({}, {"room": room})]
    for n, (wanted, found) in enumerate(itertools.islice(zip(*ways, strict=True), 2 * CONTEXT)):
        assert torch.equal(wanted, found), n


def test_compiled_the_same_is_generated_by_one_graph(key, monkeypatch):
    """The prompt is read without it, and one token as often as it is asked for."""
    cfg, p, ids = config(), make(key, config()), some(key, t=3)
    monkeypatch.setattr(gpt, "jit", partial(gpt.jit, backend="aot_eager"))
    gpt._read_on.cache_clear()
    torch._dynamo.reset()
    counters.clear()
    for seed in range(2):
        ways = [gpt.generate(p, ids, random.key(seed), cfg=cfg, room=5, compiled=how) for how in (False, True)]
        assert all(torch.equal(a, b) for a, b in itertools.islice(zip(*ways, strict=True), 5))
    assert counters["stats"]["unique_graphs"] == 1 and counters["graph_break"] == {}
    gpt._read_on.cache_clear()
    torch._dynamo.reset()


def test_only_what_is_allowed_is_picked(key):
    """Each token by the one before it, also where the context slides; nothing else changes the draw."""
    cfg, p, ids, asked = config(), make(key, config()), some(key, t=3), []

    def allowed(token):
        asked.append(token)
        odd = torch.arange(cfg.vocabulary) % 2 == 1
        return (odd if token is None else odd != (token[:, None] % 2 == 1)).expand(len(ids), -1)

    found = list(itertools.islice(gpt.generate(p, ids, random.key(1), cfg=cfg, allowed=allowed), 3 * CONTEXT))
    assert all((token % 2 == (n + 1) % 2).all() for n, token in enumerate(found))
    assert asked[0] is None and all(map(torch.equal, asked[1:], found))
    every = lambda _: torch.ones(1, cfg.vocabulary, dtype=torch.bool)  # noqa: E731
    ways = [gpt.generate(p, ids, random.key(1), cfg=cfg, **more) for more in ({}, {"allowed": every})]
    assert all(torch.equal(a, b) for a, b in itertools.islice(zip(*ways, strict=True), 5))


def test_the_cache_is_as_long_as_the_room(key, monkeypatch):
    cfg, lengths, start = config(), [], gpt.start
    monkeypatch.setattr(
        gpt, "start", lambda p, b, length=None, **more: lengths.append(length) or start(p, b, length, **more)
    )
    tokens = gpt.generate(make(key, cfg), some(key, t=3), cfg=cfg, room=2)
    for _ in range(3):  # the third token reads what is behind the prompt: two tokens
        next(tokens)
    assert lengths == [5]
    next(tokens), next(tokens)
    assert lengths == [5, None]


def test_sampling_follows_the_key(key):
    cfg, p = config(), make(key, config())
    prompt = some(key, b=3, t=2)

    def write(seed, **sampling):
        tokens = gpt.generate(p, prompt, random.key(seed), cfg=cfg, **sampling)
        return torch.stack([t for _, t in zip(range(12), tokens, strict=False)])

    assert torch.equal(write(0), write(0)) and not torch.equal(write(0), write(1))
    greedy = torch.stack([t for _, t in zip(range(12), gpt.generate(p, prompt, cfg=cfg), strict=False)])
    assert torch.equal(write(0, top_k=1), greedy)
    assert torch.equal(write(0, temperature=1e-4), greedy) and not torch.equal(write(0), greedy)


def test_reading_keeps_its_inputs(key):
    cfg, p = config(), make(key, config())
    cache, ids = gpt.start(p, 2, cfg=cfg), some(key, t=3)
    before = tree.map(torch.clone, (p, cache, ids))
    gpt.read(p, ids, cache, cfg=cfg)
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(before), tree.leaves((p, cache, ids)), strict=True))
