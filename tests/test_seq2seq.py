"""lib/models/seq2seq.py: cached decoding equals teacher forcing, packing and padding change nothing; texts stay whole
(lib/tasks/translator.py)."""

import dataclasses
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad

from experiments import exp_transformer_fr as exp
from lib import random, transformer, tree
from lib.data import casing, packing, pairs, slots, tokens, typed
from lib.data.pairs import Pair
from lib.models import seq2seq
from lib.models.seq2seq import Config, Sequences, apply, init, one_a_row, start
from lib.tasks import doubt, robust
from lib.tasks.translator import Translator, joined
from lib.transform import value_and_grad

CPU = torch.device("cpu")
V, LONGEST = 40, 24
CFG = Config(2, 2, transformer.Config(width=16, heads=2, ff=24), V, V, shared=True)
ROTARY = dataclasses.replace(CFG, block=dataclasses.replace(CFG.block, position="rotary"))
APART = dataclasses.replace(CFG, source_vocabulary=V + 3, target_vocabulary=V + 5, shared=False)

TSV = """\
Good morning!\tBonjour !
How are you?\tComment vas-tu ?
I am tired.\tJe suis fatigué.
The cat sleeps.\tLe chat dort.
The dog is sleeping.\tLe chien dort.
Where is my key?\tOù est ma clé ?
It's summer.\tC'est l'été.
We eat bread.\tNous mangeons du pain.
She has two brothers.\tElle a deux frères.
Thank you very much.\tMerci beaucoup.
"""


def make(key, cfg):
    """Parameters with every leaf away from its starting value."""
    p = init(key, cfg)
    keys = iter(random.split(random.fold_in(key, 1), len(tree.leaves(p))))
    return tree.map(lambda x: x + 0.1 * random.normal(next(keys), tuple(x.shape)), p)


def ids(key, lengths, v=V):
    """Rows of distinct tokens."""
    return [(random.permutation(random.fold_in(key, i), v - 3)[:n] + 3).tolist() for i, n in enumerate(lengths)]


# ---- tables ----


def test_a_shared_table_is_one_leaf(key):
    assert init(key, CFG)["embed"].keys() == {"source"}
    apart = init(key, APART)["embed"]
    assert {name: x.shape[0] for name, x in apart.items()} == {"source": V + 3, "target": V + 5, "head": V + 5}


@pytest.mark.parametrize("cfg", [CFG, APART], ids=["shared", "apart"])
def test_shapes(key, cfg):
    source, target = one_a_row(ids(key, [3, 7]), CPU), one_a_row(ids(key, [5, 2]), CPU)
    logits, layers = apply(init(key, cfg), source, target, cfg=cfg, weights=True)
    assert logits.shape == (2, 5, cfg.target_vocabulary)
    assert [layer["weights"].shape for layer in layers] == [(2, 2, 5, 7)] * 2


@pytest.mark.parametrize("cfg", [CFG, APART], ids=["shared", "apart"])
def test_a_gradient_reaches_every_leaf(key, cfg):
    params = make(key, cfg)
    corpus = packing.Tokens([[*row, tokens.END] for row in ids(key, [4, 6])], ids(key, [5, 3]))
    batch = packing.collate(corpus, [[0, 1]], 16, tokens.START, tokens.END)
    _, grads = value_and_grad(partial(exp.loss, cfg=cfg, dtype=torch.float32, smoothing=0.1))(params, batch)
    assert [name for name, g in tree.flatten(grads).items() if not g.abs().sum() > 0] == []


# ---- what may depend on what ----


def embeddings_used(params, source, target, at, name, cfg):
    """The ids whose row of table `name` the logits at target position `at` depend on."""

    def value(table):
        changed = {**params, "embed": {**params["embed"], name: table}}
        logits = apply(changed, source, target, cfg=cfg)[0][0, at]
        return (logits * torch.linspace(-1, 1, logits.numel())).sum()

    g = grad(value)(params["embed"][name])
    return set(g.abs().sum(dim=1).nonzero().flatten().tolist())


def test_a_target_token_sees_the_whole_source_and_no_later_target(key):
    params, (s, t) = make(key, APART), ids(key, [6, 7])
    source, target = one_a_row([s], CPU), one_a_row([t], CPU)
    for at in (0, 3, 6):
        assert embeddings_used(params, source, target, at, "source", APART) == set(s)
        assert embeddings_used(params, source, target, at, "target", APART) == set(t[: at + 1])


def test_packed_pairs_do_not_see_each_other(key):
    params = make(key, APART)
    s, t = (random.permutation(k, V - 3).tolist() for k in random.split(key))
    corpus = packing.Tokens(
        [[3 + i for i in s[:5]], [3 + i for i in s[5:11]]], [[3 + i for i in t[:4]], [3 + i for i in t[4:9]]]
    )
    batch = packing.collate(corpus, [[0, 1]], 16, tokens.START, tokens.END)
    source = Sequences(batch.source, batch.source_position, batch.source_segment)
    target = Sequences(batch.target_in, batch.target_position, batch.target_segment)
    for at, pair, seen in ((4, 0, 5), (5, 1, 1), (10, 1, 6)):  # the last of the first, the first and last of the second
        assert embeddings_used(params, source, target, at, "source", APART) == set(corpus.source[pair])
        expected = {tokens.START, *corpus.target[pair][: seen - 1]}
        assert embeddings_used(params, source, target, at, "target", APART) == expected


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("cfg", [CFG, ROTARY], ids=["sinusoidal", "rotary"])
def test_the_loss_of_a_packed_batch_is_the_mean_over_its_tokens(key, cfg, smoothing):
    params, lengths = make(key, cfg), [(3, 4), (6, 2), (2, 7), (5, 5), (1, 1)]
    corpus = packing.Tokens(
        [[*row, tokens.END] for row in ids(key, [s for s, _ in lengths])], ids(key, [t for _, t in lengths])
    )
    batch = packing.collate(corpus, [[0, 1, 2], [3, 4]], 20, tokens.START, tokens.END)
    packed = exp.loss(params, batch, cfg=cfg, dtype=torch.float32, smoothing=smoothing)
    total = count = 0
    for s, t in zip(*corpus, strict=True):
        logits, _ = apply(params, one_a_row([s], CPU), one_a_row([[tokens.START, *t]], CPU), cfg=cfg)
        labels = torch.tensor([*t, tokens.END])
        total += F.cross_entropy(logits[0], labels, label_smoothing=smoothing, reduction="sum").item()
        count += len(labels)
    assert packed.item() == pytest.approx(total / count, abs=1e-5)


def test_padding_changes_no_logits(key):
    params, target = make(key, CFG), one_a_row(ids(key, [5]), CPU)
    alone = one_a_row(ids(key, [4]), CPU)
    padded = Sequences(*(F.pad(x, (0, 9)) for x in alone))
    logits = [apply(params, source, target, cfg=CFG)[0] for source in (alone, padded)]
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


def test_rotary_positions_say_how_far_apart_source_and_target_are(key):
    """A source and a target that both start at another position give the same logits; one of them alone does not."""
    params, (source, target) = make(key, ROTARY), (one_a_row(ids(key, [n]), CPU) for n in (6, 4))
    later = [side._replace(position=side.position + 3) for side in (source, target)]
    expected, both, alone = (
        apply(params, *sides, cfg=ROTARY)[0] for sides in ((source, target), later, (later[0], target))
    )
    torch.testing.assert_close(both, expected, atol=1e-5, rtol=1e-5)
    assert (alone - expected).abs().max() > 1e-3


# ---- step by step ----


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("cfg", [CFG, APART, ROTARY], ids=["shared", "apart", "rotary"])
def test_cached_decoding_equals_teacher_forcing(key, cfg, beams):
    params, source = make(key, cfg), one_a_row(ids(key, [3, 8, 5]), CPU)
    target = one_a_row(ids(random.fold_in(key, 9), [7, 7, 7]), CPU)
    forced, _ = apply(params, source, target, cfg=cfg)
    step, cache = start(params, source, beams, 10, cfg=cfg)
    for t in range(7):
        logits, cache = step(target.ids[:, t].repeat_interleave(beams), cache)
        torch.testing.assert_close(logits, forced[:, t].repeat_interleave(beams, dim=0), atol=1e-5, rtol=1e-5)


def test_a_step_leaves_its_cache_as_it_was(key):
    step, cache = start(make(key, CFG), one_a_row(ids(key, [3, 8]), CPU), 1, 10, cfg=CFG)
    before = tree.map(torch.clone, cache)
    first = step(torch.tensor([5, 6]), cache)[0]
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(before), tree.leaves(cache), strict=True))
    assert torch.equal(step(torch.tensor([5, 6]), cache)[0], first)


# ---- a trained model ----


@pytest.fixture(scope="module")
def corpus():
    return list(pairs.read_tsv(TSV.encode(), "tiny.tsv", "tiny"))


@pytest.fixture(scope="module")
def translator(corpus):
    """The experiment's own step on ten pairs, until it knows them by heart."""
    args = exp.Args(
        steps=150, width=32, heads=2, ff=64, encoder_layers=1, decoder_layers=1, lr=1e-2, warmup=10, smoothing=0.0
    )
    both, _ = tokens.train_pair(*typed.sides(corpus), 320, shared=True)
    cfg = exp.model_config(args, (both, both))
    encoded = exp.encoded(typed.sides(corpus), (both, both), LONGEST)
    assert len(encoded.source) == len(corpus)
    collate = partial(packing.collate, length=LONGEST, start=tokens.START, end=tokens.END)
    data = packing.batches(encoded, random.key(1), 3, collate, LONGEST)
    state = exp.init_state(random.key(0), cfg, args)
    for _ in range(args.steps):
        state, out = exp.step(state, next(data), cfg=cfg, args=args, dtype=torch.float32)
    assert out["train/loss"] < 0.1
    return Translator(
        state.params, both, both, slots.Lexicon.of(typed.lexicon(corpus, typed.names(corpus))), cfg, LONGEST
    )


def best(found):
    return [hypotheses[0][0] for hypotheses in found]


def whole(translator, texts, *args):
    return [joined(parts) for parts in translator.by_sentence(texts, *args)]


def test_what_was_learnt_by_heart_is_said_again(translator, corpus):
    assert best(translator.translate([p.source for p in corpus])) == [p.target for p in corpus]
    assert best(translator.translate([p.source for p in corpus], beams=3)) == [p.target for p in corpus]


def test_a_translation_does_not_depend_on_its_batch(translator, corpus):
    sources = [p.source for p in corpus]
    mixed = [*sources[::-1], " ".join(sources[:3]), "a"]
    assert best(translator.translate(mixed))[: len(sources)] == [p.target for p in corpus[::-1]]
    for p in corpus[:3]:
        assert best(translator.translate([p.source])) == [p.target]
        [[(text, score), *_]] = translator.translate([p.source], beams=3)
        in_batch = translator.translate(mixed, beams=3)[mixed.index(p.source)][0]
        assert in_batch == (text, pytest.approx(score, abs=1e-4))


def test_more_sentences_than_a_batch(translator, corpus):
    many = [corpus[i % 7] for i in range(140)]
    assert best(translator.translate([p.source for p in many])) == [p.target for p in many]


def test_beams_come_best_first(translator, corpus):
    for hypotheses in translator.translate([p.source for p in corpus], beams=4):
        scores = [score for _, score in hypotheses]
        assert len(hypotheses) == 4 and scores == sorted(scores, reverse=True) and scores[0] < 0


def test_sampling_by_key(translator, corpus):
    def draw(seed, **options):
        return best(translator.translate([p.source for p in corpus[:3]], key=random.key(seed), **options))

    assert draw(1, temperature=2.0) == draw(1, temperature=2.0) != draw(2, temperature=2.0)
    assert draw(1, temperature=2.0, top_k=1) == draw(1, top_p=1e-6) == [p.target for p in corpus[:3]]


def test_nothing_to_translate(translator):
    assert translator.translate([]) == []
    assert whole(translator, []) == []
    assert whole(translator, ["", "  \n "]) == [[("", 0.0)], [("", 0.0)]]
    assert whole(translator, ["", "How are you?"], 3)[0] == [("", 0.0)]


def test_texts_of_several_sentences(translator, corpus):
    a, b, c = corpus[1], corpus[3], corpus[6]
    texts = [f"{a.source} {b.source}\n{c.source}", a.source, f"  {c.source}  "]
    expected = [f"{a.target} {b.target} {c.target}", a.target, c.target]
    assert best(whole(translator, texts)) == expected
    found = whole(translator, texts, 2)
    assert best(found) == expected and [len(hypotheses) for hypotheses in found] == [2, 2, 2]
    parts = translator.translate([a.source, b.source, c.source], 2)
    assert found[0][0][1] == pytest.approx(sum(hypotheses[0][1] for hypotheses in parts), abs=1e-4)


SENTENCES = {
    "How are you?": ["How are you?"],
    "One. Two! Three? Four": ["One.", "Two!", "Three?", "Four"],
    "It is 3.14, no?": ["It is 3.14, no?"],
    'He said "no!" Why?!': ['He said "no!"', "Why?!"],
    "Wait...  what": ["Wait...", "what"],
    "Ça va ? Oui !": ["Ça va ?", "Oui !"],
    " \t a\n\nb ": ["a b"],
    "": [],
    "?": ["?"],
}


@pytest.mark.parametrize("text", SENTENCES)
def test_a_text_is_cut_into_its_sentences(translator, text):
    roomy = translator._replace(longest=100)
    assert roomy.sentences(text) == SENTENCES[text]


LONG = {
    "words": "the cat sleeps and the dog is sleeping " * 20,
    "sentences": "How are you? I am tired! " * 30,
    "one word": "supercalifragilistic" * 20,
    "a long word among short ones": f"I am {'tired' * 50} and {'x' * 300}. The cat sleeps.",
    "no spaces": "今天天气很好,我们去公园散步吧" * 8,
    "emoji": "👩‍👩‍👧 " * 20 + "🎉" * 40,
    "dots": "." * 100,
    "nul": "a\0b" * 40,
}


@pytest.mark.parametrize("name", LONG)
def test_long_texts_are_cut_to_pieces_that_fit_and_nothing_is_lost(translator, name):
    found = translator.sentences(LONG[name])
    lower = [casing.lower(translator.emptied(text)[0]) for text in found]
    assert all(len(row) < LONGEST for row in tokens.encode(translator.source, lower))  # room for the end token
    assert "".join("".join(found).split()) == "".join(LONG[name].split())
    [hypotheses] = whole(translator, [LONG[name]])
    assert len(hypotheses) == 1


@pytest.mark.parametrize(
    ("text", "strange"),
    [
        ("How are you?", False),
        ("你好吗", True),
        ("Как дела, Tom?", True),
        ("I like Москва.", False),
        ("3 + 4 = 7 !", False),
        ("Tom said 好.", False),
        ("", False),
    ],
)
def test_scripts_that_were_never_seen(translator, text, strange):
    assert translator.strange(text) == strange


# ---- doubt ----


def test_confidence_is_the_mean_log_probability(translator, corpus):
    sources, targets = typed.sides(corpus)
    [hypotheses, *_] = translator.translate([sources[0]], beams=3, alpha=0.0)  # whose scores are sums
    text, score = hypotheses[0]
    pieces = len(translator.ids(sources[0], text)[1]) + 1
    [alone] = doubt.confidence(translator, [sources[0]], [text])
    assert alone == pytest.approx(score / pieces, abs=1e-4)
    right, wrong = doubt.confidence(translator, sources, targets), doubt.confidence(translator, sources, targets[::-1])
    assert right[0] == pytest.approx(alone, abs=1e-4) and min(right) > -0.3 > -1.5 > max(wrong)


@pytest.mark.parametrize(
    ("text", "translation", "repeats"),
    [
        ("The cat sleeps.", "Le chat chat chat dort.", True),
        ("The cat sleeps.", "Le chat chat dort.", False),
        ("cat cat cat", "chat chat chat", False),
        ("I have 1000.", "J'ai 1000...", False),
        ("Hm.", "- - - -", False),
        ("", "", False),
    ],
)
def test_what_repeats_itself(translator, text, translation, repeats):
    assert doubt.repeats(translator, text, translation) == repeats


def test_numbers_signs_and_lone_names_stay_as_they_are(translator):
    texts = ["...", "2 + 2 = 4", "Okafor", "42", "?!", "1"]
    assert best(translator.translate(texts)) == best(translator.translate(texts, 2)) == texts


def test_what_is_carried_over(translator):
    def carried(text, translation):
        return doubt.plain(translator, text, translation)

    assert carried("I am Okafor.", "Je suis Okafor.") == ""
    assert carried("I am Okafor.", "Je suis fatigué.") == "it leaves out Okafor"
    assert carried("I am zorblaxed.", "Je suis zorblaxed.") == "the model does not know zorblaxed"
    assert carried("zorblax is tired", "Zorblax est fatigué") == "the model does not know zorblax"
    assert carried("I AM ZORBLAXED", "JE SUIS ZORBLAXED") == "the model does not know ZORBLAXED"


def test_how_much_is_kept(translator):
    names = [Pair(f"I {verb} Tom and 12.", f"Je {verb} Tom et 12.", "x", verb) for verb in "abc"]

    class Half:
        """Keeps everything in lower case, and nothing otherwise."""

        def best(self, texts, beams):
            return [text if text.islower() else "Oui." for text in texts]

    assert robust.copying(Half(), names, names, 1) == ({"as_written": 0, "lower_case": 1}, 6)
    assert robust.copying(translator, names[:0], names, 1) == ({"as_written": 0, "lower_case": 0}, 0)


def test_reasons_for_doubt(translator, corpus):
    one = corpus[3]
    found = doubt.reasons(translator, [one.source] * 3, [one.target, "Le chat chat chat dort.", corpus[0].target])
    assert found[0] == "" and found[1] == "it repeats itself" and "improbable" in found[2]


def test_how_well_doubt_finds_bad_translations(translator, corpus):
    sources, targets = typed.sides(corpus)
    found = [*targets[:5], *targets[:5]]
    assert robust.doubting(translator, sources, found, [[t] for t in targets]) == (1.0, 0.5, 0.5)
    area, bad, _ = robust.doubting(translator, sources, targets, [[t] for t in targets])
    assert math.isnan(area) and bad == 0


def test_translations_of_what_is_typed(translator, corpus):
    sources, targets = typed.sides(corpus)
    scores = robust.typing(translator, sources, [[t] for t in targets], 2)
    assert scores.keys() == robust.TYPED.keys()
    assert scores["as_written"] == scores["lower_case"] == scores["capitals"] == pytest.approx(100)
    assert scores["no_final_punctuation"] < 100  # which it has never seen


def test_a_sentence_in_another_case_is_translated_once(translator, corpus, monkeypatch):
    rows, batch = [], Translator._batch
    monkeypatch.setattr(Translator, "_batch", lambda self, ids, *rest: rows.extend(ids) or batch(self, ids, *rest))
    sources = [p.source for p in corpus]
    many = [change(s) for s in sources for change in (str, str.upper, str.lower)]
    assert best(translator.translate(many)) == [p.target for p in corpus for _ in range(3)]
    assert len(rows) == len(corpus)
    rows.clear()
    translator.translate(sources[:1] * 3, key=random.key(0))
    assert len(rows) == 3


# ---- attention ----


def test_attention_map(translator):
    weights, rows, columns = translator.attention_map("The cat sleeps.", "Le chat dort.")
    assert weights.shape == (len(rows), len(columns))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(rows)))
    assert (weights >= 0).all()
    assert "".join(columns).strip() == "the cat sleeps.</s>" and "".join(rows).strip() == "le chat dort.</s>"


def test_steps_are_of_the_translation_that_is_given(translator):
    found = translator.steps("The cat sleeps.", "Le chat dort.")
    ids = translator.ids("The cat sleeps.", "Le chat dort.")
    logits, _ = translator.forced([ids[0]], [ids[1]])
    wanted = logits[0].softmax(-1)
    own = torch.tensor([*ids[1], tokens.END])
    torch.testing.assert_close(torch.tensor(found.p), wanted.gather(1, own[:, None])[:, 0])
    assert len(found.tokens) == len(found.likeliest) == len(found.looked) == len(own)
    for best, row in zip(found.likeliest, wanted, strict=True):
        torch.testing.assert_close(torch.tensor([p for _, p in best]), row.topk(10).values)


def test_attention_map_of_a_text_that_is_too_long(translator):
    weights, rows, columns = translator.attention_map("The cat sleeps. " * 30, "Le chat dort. " * 30)
    assert weights.shape == (len(rows), len(columns)) == (LONGEST, LONGEST)


def test_attention_map_looks_at_no_padding_and_every_row_is_its_own(translator):
    weights, _, _ = translator.attention_map("Where is my key?", "Où est ma clé ?")
    assert weights.std(dim=0).max() > 1e-4


def test_one_a_row():
    found = one_a_row([[5, 6], [7, 8, 9]], CPU)
    assert found.ids.tolist() == [[5, 6, 0], [7, 8, 9]]
    assert found.position.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert found.segment.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_positions_are_counted_from_the_start_of_each_pair(key):
    """The second pair of a row is embedded as if it stood alone."""
    table, row = init(key, CFG)["embed"]["source"], torch.tensor([[5, 6, 7]])
    places = torch.tensor([[0, 1, 0, 1, 2]])
    alone = seq2seq.embed(table, row, seq2seq.waves(3, table, CFG), places[:, 2:])
    packed = seq2seq.embed(table, torch.tensor([[9, 9, 5, 6, 7]]), seq2seq.waves(5, table, CFG), places)
    torch.testing.assert_close(packed[:, 2:], alone)
