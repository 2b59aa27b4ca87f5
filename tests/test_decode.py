"""lib/decode.py against hand computation, softmax frequencies and brute force, with made-up models of a few tokens."""

import itertools
import math

import pytest
import torch

from lib import decode, random

END = 0


def chain(table):
    """A Markov model whose logits depend on the position too: `table` is (position, last token, v)."""

    def step(token, cache):
        return table[cache["position"], token], {"position": cache["position"] + 1}

    return step


def zero():
    return {"position": torch.zeros((), dtype=torch.int64)}


def make_table(key, length, v):
    return 2 * random.normal(key, (length, v, v))


def logp(table, first, ids):
    """log p of a hypothesis up to its first end token, and its length."""
    total, last = 0.0, first
    for n, token in enumerate(ids):
        total, last = total + torch.log_softmax(table[n, last], dim=-1)[token].item(), token
        if token == END:
            return total, n + 1
    return total, len(ids)


def score(table, first, ids, alpha):
    total, n = logp(table, first, ids)
    return total / ((5 + n) / 6) ** alpha


# ---- greedy ----


def test_greedy_by_hand():
    #        from 0        from 1        from 2        from 3
    rows = [[9, 0, 0, 0], [0, 1, 5, 2], [0, 1, 2, 7], [4, 3, 2, 1]]
    table = torch.tensor(rows, dtype=torch.float32).expand(5, 4, 4)
    out = decode.generate(chain(table), zero(), torch.tensor([1, 2, 3]), 5, END)
    assert out.tolist() == [[2, 3, 0], [3, 0, 0], [0, 0, 0]]


def test_the_end_token_stops_a_sequence_and_the_last_one_the_loop():
    table = torch.zeros(6, 3, 3)
    table[0, 1, END] = table[0, 2, 2] = table[1, 2, 1] = table[2, 1, END] = 5.0
    table[1:, END, 2] = 9.0  # what the model says after the end is not listened to
    calls = []

    def step(token, cache):
        calls.append(token.tolist())
        return chain(table)(token, cache)

    out = decode.generate(step, zero(), torch.tensor([1, 2]), 6, END)
    assert out.tolist() == [[END, END, END], [2, 1, END]]
    assert len(calls) == 3
    assert decode.generate(chain(table), zero(), torch.tensor([2]), 2, END).tolist() == [[2, 1]]  # cut at `length`


# ---- sampling ----


def test_sampling_is_reproducible_by_its_key(key):
    table, first = make_table(key, 6, 8), torch.ones(50, dtype=torch.int64)
    a, b, c = (decode.generate(chain(table), zero(), first, 6, END, random.key(s)) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_sampling_matches_softmax(key, temperature):
    n, logits = 20_000, torch.tensor([-9.0, 0.0, 1.0, 2.0, -0.5])
    table = logits.expand(2, 5, 5)
    first = torch.ones(n, dtype=torch.int64)
    out = decode.generate(chain(table), zero(), first, 2, END, key, temperature=temperature)
    p = torch.softmax(logits / temperature, dim=0)
    joint = torch.bincount(out[:, 0] * 5 + out[:, 1], minlength=25).reshape(5, 5) / n
    expected = p[:, None] * p  # the two draws are independent: their keys differ
    expected[END] = torch.tensor([p[END], 0, 0, 0, 0])
    assert (joint - expected).abs().max() < 4.5 * 0.5 / math.sqrt(n)


P = torch.tensor([0.0625, 0.5, 0.125, 0.25, 0.0625])


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 1.0, {0, 1, 2, 3, 4}),
        (1, 1.0, {1}),
        (3, 1.0, {1, 2, 3}),
        (5, 1.0, {0, 1, 2, 3, 4}),
        (99, 1.0, {0, 1, 2, 3, 4}),  # more than there are
        (0, 0.4, {1}),
        (0, 0.55, {1, 3}),
        (0, 0.7, {1, 3}),
        (0, 0.8, {1, 2, 3}),
        (0, 0.99, {0, 1, 2, 3, 4}),
        (0, 1e-9, {1}),  # the likeliest always stays
        (0, 0.0, {1}),
        (2, 0.6, {1}),  # of the two that are left, the first has 2/3
        (2, 0.7, {1, 3}),
        (1, 0.9, {1}),
    ],
)
def test_restrict_by_hand(top_k, top_p, kept):
    logits = torch.stack([P.log() + 3, P.log().roll(1)])
    out = decode.restrict(logits, top_k, top_p)
    for row, (before, after) in enumerate(zip(logits, out, strict=True)):
        expected = {(i + row) % 5 for i in kept}
        assert {i for i in range(5) if after[i] > -torch.inf} == expected
        assert all(after[i] == before[i] for i in expected)


def test_restricted_sampling_stays_inside(key):
    table, first = P.log().expand(1, 5, 5), torch.ones(2000, dtype=torch.int64)

    def drawn(**options):
        return set(decode.generate(chain(table), zero(), first, 1, END, key, **options).flatten().tolist())

    assert drawn() == {0, 1, 2, 3, 4}
    assert drawn(top_k=3) == {1, 2, 3}
    assert drawn(top_p=0.7) == {1, 3}
    assert drawn(top_p=0.7, temperature=0.1) == {1}  # the nucleus is of the tempered distribution


def test_top_k_of_one_is_greedy(key):
    table, first = make_table(key, 6, 8), torch.arange(1, 8)
    greedy = decode.generate(chain(table), zero(), first, 6, END)
    assert torch.equal(decode.generate(chain(table), zero(), first, 6, END, key, temperature=3.0, top_k=1), greedy)


# ---- beam search ----


def every_hypothesis(v, length):
    """All sequences that end with END, or are as long as may be without one."""
    for n in range(1, length + 1):
        for body in itertools.product(range(1, v), repeat=n - 1):
            yield [*body, END]
    yield from (list(body) for body in itertools.product(range(1, v), repeat=length))


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
def test_a_beam_as_wide_as_the_tree_finds_the_best(key, alpha):
    v, length, first = 3, 4, [1, 2]
    for k in random.split(key, 3):
        table = make_table(k, length, v)
        out, scores = decode.beam_search(chain(table), zero(), torch.tensor(first), length, END, v**length, alpha)
        for i, start in enumerate(first):
            ranked = sorted(((score(table, start, y, alpha), y) for y in every_hypothesis(v, length)), reverse=True)
            n = int(scores[i].isfinite().sum())
            assert n == len(ranked)
            torch.testing.assert_close(scores[i, :n], torch.tensor([s for s, _ in ranked]))
            assert [ids[: len(y)] for ids, (_, y) in zip(out[i].tolist(), ranked, strict=False)] == [
                y for _, y in ranked
            ]


def test_the_length_penalty_by_hand():
    """Two hypotheses: end at once (p = .5) or three more tokens (p = .45): which is better depends on alpha alone."""
    table = torch.full((4, 3, 3), -1e9)
    table[0, 1] = torch.tensor([0.5, 0.05, 0.45]).log()
    table[0, 1, 1] = -1e9
    table[1:3, 2, 2] = table[3, 2, END] = 0.0
    p = torch.tensor([0.5, 0.45]) / 0.95
    for alpha, best in ((0.0, [END, END, END, END]), (2.0, [2, 2, 2, END])):
        out, scores = decode.beam_search(chain(table), zero(), torch.tensor([1]), 4, END, 2, alpha)
        expected = [p[0].log() / (6 / 6) ** alpha, p[1].log() / (9 / 6) ** alpha]
        assert out[0, 0].tolist() == best
        torch.testing.assert_close(scores[0], torch.tensor(sorted(expected, reverse=True)))


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_one_beam_is_greedy(key, alpha):
    for k in random.split(key, 5):
        table, first = make_table(k, 7, 6), torch.arange(1, 6)
        out, _ = decode.beam_search(chain(table), zero(), first, 7, END, 1, alpha)
        assert torch.equal(out[:, 0], decode.generate(chain(table), zero(), first, 7, END))


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
def test_scores_are_sorted_and_are_those_of_the_tokens(key, alpha):
    """Among them finished beams, which keep their score while others grow."""
    first = [1, 2, 3]
    for k in random.split(key, 5):
        table = make_table(k, 8, 5)
        out, scores = decode.beam_search(chain(table), zero(), torch.tensor(first), 8, END, 4, alpha)
        assert (scores.diff(dim=1) <= 0).all()
        expected = [[score(table, f, ids, alpha) for ids in rows] for f, rows in zip(first, out.tolist(), strict=True)]
        torch.testing.assert_close(scores, torch.tensor(expected))
        for rows in out.tolist():
            assert len({tuple(ids) for ids in rows}) == 4  # different hypotheses
            assert all(set(ids[ids.index(END) :]) == {END} for ids in rows if END in ids)


def test_a_finished_beam_keeps_its_place_and_score():
    table = torch.full((6, 3, 3), -1e9)
    table[0, 1] = torch.tensor([0.6, 0.0, 0.4]).log().clamp(min=-1e9)
    table[1:, 2, 2] = 0.0  # the other one never ends
    out, scores = decode.beam_search(chain(table), zero(), torch.tensor([1]), 6, END, 2, 0.6)
    assert out[0].tolist() == [[END] * 6, [2] * 6]
    torch.testing.assert_close(scores[0], torch.tensor([math.log(0.6), math.log(0.4) / (11 / 6) ** 0.6]))


def test_the_search_ends_when_every_beam_has():
    table = torch.tensor([[0.0, -9.0, -9.0], [0.0, 0.0, -30.0], [9.0, -9.0, -9.0]]).expand(50, 3, 3)
    calls = []

    def step(token, cache):
        calls.append(1)
        return chain(table)(token, cache)

    decode.beam_search(step, zero(), torch.tensor([2]), 50, END, 2)
    assert len(calls) < 5


def test_the_cache_follows_its_beam(key):
    """A model whose logits depend on its whole history, as the cache has it: it must be that of the hypothesis."""
    b, k, v, length = 3, 4, 5, 6
    table = 2 * random.normal(key, (101, v))
    powers = torch.tensor([7**n for n in range(length)])

    def step(token, cache):
        n = cache["position"]
        history = cache["history"].index_copy(1, n[None], token[:, None] + 1)
        return table[(history * powers).sum(dim=1) % 101], {"history": history, "position": n + 1}

    first = torch.tensor([1, 2, 3])
    cache = zero() | {"history": torch.zeros(b * k, length, dtype=torch.int64)}
    out, scores = decode.beam_search(step, cache, first, length, END, k, 0.6)
    for start, rows, found in zip(first.tolist(), out.tolist(), scores.tolist(), strict=True):
        for ids, value in zip(rows, found, strict=True):
            total, n, alone = 0.0, 0, zero() | {"history": torch.zeros(1, length, dtype=torch.int64)}
            for last, token in itertools.pairwise([start, *ids]):
                logits, alone = step(torch.tensor([last]), alone)
                total, n = total + torch.log_softmax(logits[0], dim=-1)[token].item(), n + 1
                if token == END:
                    break
            assert value == pytest.approx(total / ((5 + n) / 6) ** 0.6, abs=1e-4)
    assert cache["history"].sum() == 0  # the caller's cache is as it was


def test_sequences_of_a_batch_do_not_mix(key):
    table = make_table(key, 6, 5)
    first = torch.tensor([1, 2, 3])
    out, scores = decode.beam_search(chain(table), zero(), first, 6, END, 3)
    for i in range(3):
        alone, score = decode.beam_search(chain(table), zero(), first[i : i + 1], 6, END, 3)
        t = min(out.shape[2], alone.shape[2])
        assert torch.equal(out[i, :, :t], alone[0, :, :t])
        torch.testing.assert_close(scores[i], score[0])
