"""lib/lora.py: low-rank adapters of a decoder's weights."""

import pytest
import torch
from einops import rearrange

from lib import lora, random, transformer, tree
from lib.models import gpt
from lib.transform import value_and_grad

PATTERN = r"blocks\.\d+\.(attn\.w_\w|ff\.\w+\.w)$"
CFG = gpt.Config(
    30,
    8,
    2,
    transformer.Config(
        width=12,
        heads=3,
        ff=20,
        dropout=0.0,
        norm="rms",
        activation="swiglu",
        position="rotary",
        bias="all",
        kv_heads=1,
    ),
)


@pytest.fixture
def params(key):
    return gpt.init(key, CFG)


@pytest.fixture
def adapters(params):
    """Trained ones: b is no longer zero."""
    made = lora.init(random.key(1), params, PATTERN, 2)
    keys = iter(random.split(random.key(2), 99))
    return {path: {"a": p["a"], "b": random.normal(next(keys), tuple(p["b"].shape))} for path, p in made.items()}


def matrix(path, w):
    return rearrange(w, "h c d -> (h c) d") if path.endswith("w_o") else w.flatten(1)


def test_which_weights_are_adapted_and_their_shapes(params):
    made = lora.init(random.key(1), params, PATTERN, 2)
    names = ["attn.w_q", "attn.w_k", "attn.w_v", "attn.w_o", "ff.in.w", "ff.gate.w", "ff.out.w"]
    assert set(made) == {f"decoder.blocks.{i}.{name}" for i in range(2) for name in names}
    shapes = {name: tuple(tuple(made[f"decoder.blocks.0.{name}"][x].shape) for x in "ab") for name in names}
    assert shapes["attn.w_q"] == ((12, 2), (2, 3, 4)) and shapes["attn.w_k"] == ((12, 2), (2, 1, 4))
    assert shapes["attn.w_o"] == ((3, 4, 2), (2, 12)) and shapes["ff.out.w"] == ((20, 2), (2, 12))


def test_at_first_the_weights_are_as_they_were(params):
    made = lora.init(random.key(1), params, PATTERN, 4)
    for path, w in tree.flatten(lora.merged(params, made, 2.0)).items():
        assert torch.equal(w, tree.at(params, path)), path
    drawn = [p["a"].flatten() * p["a"].shape[0] ** 0.5 for p in made.values() if p["a"].ndim == 2]
    assert torch.cat(drawn).std() == pytest.approx(1.0, rel=0.1)
    flat = [p["a"].flatten() for p in made.values()]
    assert not any(torch.equal(a[:20], b[:20]) for i, a in enumerate(flat) for b in flat[:i])


def test_the_difference_has_the_rank(params, adapters):
    after = tree.flatten(lora.merged(params, adapters, 2.0))
    for path, w in tree.flatten(params).items():
        difference = after[path] - w
        assert (path in adapters) == bool(difference.any())
        if path in adapters:
            assert torch.linalg.matrix_rank(matrix(path, difference), rtol=1e-4) == 2


def test_equals_a_path_beside_the_weight(params, adapters, key):
    """x W + scale (x a) b, for a weight with heads as outputs and for one with heads as inputs."""
    after = lora.merged(params, adapters, 0.5)["decoder"]["blocks"][1]["attn"]
    before = params["decoder"]["blocks"][1]["attn"]
    x = random.normal(key, (5, 12))
    q, o = (adapters[f"decoder.blocks.1.attn.{name}"] for name in ("w_q", "w_o"))
    expected = x @ before["w_q"].flatten(1) + 0.5 * (x @ q["a"]) @ q["b"].flatten(1)
    torch.testing.assert_close(x @ after["w_q"].flatten(1), expected)
    expected = x @ before["w_o"].flatten(0, 1) + 0.5 * (x @ o["a"].flatten(0, 1)) @ o["b"]
    torch.testing.assert_close(x @ after["w_o"].flatten(0, 1), expected)


def test_gradients_and_inputs(params, adapters, key):
    ids = random.randint(key, (2, 8), 0, 30).long()
    before = [tree.map(torch.clone, part) for part in (params, adapters)]
    loss = lambda a: gpt.apply(lora.merged(params, a, 2.0), ids, cfg=CFG).square().mean()  # noqa: E731
    grads = tree.flatten(value_and_grad(loss)(adapters)[1])
    assert len(grads) == 28 and all(g.any() for g in grads.values())
    for old, new in zip(tree.leaves(before), tree.leaves([params, adapters]), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("pattern, found", [("nothing", "finds nothing"), (r"blocks\.0.*b_q", "finds decoder.*b_q")])
def test_bad_patterns(params, pattern, found):
    with pytest.raises(ValueError, match=found):
        lora.init(random.key(1), params, pattern, 2)
