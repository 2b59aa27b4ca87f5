"""lib/models/dit.py: what its output depends on, and what it does not."""

import pytest
import torch
from torch.func import vmap

from lib import random, transformer, tree
from lib.models import dit

CFG = dit.Config(size=16, fine=8, width=16, heads=2, blocks=2, words=12)
WORDS = transformer.Config(width=12, heads=2, ff=16, position="learned")


def some(key, like=0.3):
    """Parameters none of which is 0, and inputs of three texts of five, three and one words."""
    p = dit.init(key, CFG)
    keys = iter(random.split(random.fold_in(key, 1), len(tree.leaves(p))))
    p = tree.map(lambda x: x + like * random.normal(next(keys), tuple(x.shape)), p)
    k_x, k_words = random.split(random.fold_in(key, 2))
    mask = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    return (
        p,
        random.normal(k_x, (3, 3, 16, 16)),
        torch.tensor([0.1, 0.5, -0.4]),
        random.normal(k_words, (3, 5, 12)),
        mask,
    )


def test_a_new_one_predicts_nothing(key):
    p = dit.init(key, CFG)
    _, *given = some(key)
    out, seen = dit.apply(p, *given, cfg=CFG)
    assert out.shape == (3, 3, 16, 16) and not out.any() and seen == []


def test_what_it_depends_on(key):
    p, x, noise, words, mask = some(key)
    out = dit.apply(p, x, noise, words, mask, cfg=CFG)[0]
    padded = torch.where(mask[..., None], words, 7.0)
    torch.testing.assert_close(dit.apply(p, x, noise, padded, mask, cfg=CFG)[0], out)
    for change in (
        dit.apply(p, x, noise + 0.1, words, mask, cfg=CFG)[0],
        dit.apply(p, x, noise, words + 0.1, mask, cfg=CFG)[0],
        dit.apply({**p, "positions": p["positions"].flip(0)}, x, noise, words, mask, cfg=CFG)[0],
        dit.apply(p, torch.roll(x, 2, -1), noise, words, mask, cfg=CFG)[0].roll(-2, -1),
    ):
        assert ((change - out).abs().flatten(1).amax(1) > 1e-3).all()
    far = x.clone()
    far[:, :, 0, 0] += 1  # one corner is heard in the other
    assert (dit.apply(p, far, noise, words, mask, cfg=CFG)[0] - out)[:, :, -1, -1].abs().max() > 1e-5


def test_each_example_by_itself_and_under_vmap(key):
    p, *given = some(key)
    out, seen = dit.apply(p, *given, cfg=CFG, weights=True)
    one = lambda *of: dit.apply(p, *(x[None] for x in of), cfg=CFG)[0][0]  # noqa: E731
    torch.testing.assert_close(torch.stack([one(*of) for of in zip(*given, strict=True)]), out, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(vmap(one)(*given), out, atol=1e-5, rtol=1e-4)
    mask = given[-1]
    assert len(seen) == CFG.blocks
    for w in seen:
        assert w.shape == (3, 2, 16, 5)
        torch.testing.assert_close(w.sum(-1), torch.ones(3, 2, 16))
        assert not w.masked_select(~mask[:, None, None]).any()


def test_bf16_is_near(key):
    p, *given = some(key)
    exact, near = (dit.apply(tree.cast(p, dtype), *given, cfg=CFG)[0] for dtype in (torch.float32, torch.bfloat16))
    assert near.dtype == torch.float32 and 0 < (near - exact).norm() / exact.norm() < 0.1


def test_words_hear_one_another_in_their_order(key):
    p = dit.text_init(key, 20, 6, WORDS)
    ids = torch.tensor([[1, 5, 6, 7, 0, 0]])
    mask = ids != 0
    out = dit.text(p, ids, mask, cfg=WORDS)
    assert out.shape == (1, 6, 12)
    torch.testing.assert_close(dit.text(p, ids[:, :4], mask[:, :4], cfg=WORDS), out[:, :4])  # padding is not heard
    other = dit.text(p, torch.tensor([[1, 6, 5, 7, 0, 0]]), mask, cfg=WORDS)
    assert (other - out)[:, [0, 3]].abs().amax(-1).min() > 1e-3  # of words that stayed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 10}, "10 is not a multiple of 4"), ({"heads": 3}, "of heads 3"), ({"fine": 12}, "multiple of 8"),
        ({"around": 0}, "one block"),
    ],
)  # fmt: skip
def test_what_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        dit.Config(**({"size": 8, "width": 16, "heads": 2} | change))
