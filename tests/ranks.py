"""What two processes do, beside what one does with the whole batch: run by tests/test_parallel.py under torchrun.

Each check returns numbers that test_parallel looks at; rank 0 writes them as JSON to the file named as an argument.
"""

import json
import sys
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch

from experiments import (
    exp_assistant,
    exp_autoencoder_digits,
    exp_bert_entities,
    exp_bert_sentiment,
    exp_cgan_glasses,
    exp_classifier_fashion,
    exp_cyclegan_hair,
    exp_dcgan_faces,
    exp_diffusion_flowers,
    exp_gan_curve,
    exp_gan_fashion,
    exp_gan_multiples,
    exp_gpt2,
    exp_gpt2_classify,
    exp_gpt_hemingway,
    exp_lstm_novel,
    exp_mixture_points,
    exp_musegan_bach,
    exp_text2image_flowers,
    exp_transformer_fr,
    exp_transformer_music,
    exp_transformer_piano,
    exp_vae_faces,
)
from lib import nn, parallel, random, threefry, transformer, tree
from lib.data import batches, excerpts, packing, tokens, voices
from lib.data.domains import Domains
from lib.data.images import Images
from lib.data.pieces import Piece
from lib.faults import ParallelError
from lib.models import bert, gpt, seq2seq
from lib.tasks.classify import Encoded

SIZE = {"width": 16, "heads": 2, "ff": 24}
LLAMA = {"norm": "rms", "activation": "swiglu", "position": "rotary", "bias": "none"}
GPT2 = {"norm": "layer", "activation": "gelu_tanh", "position": "learned", "bias": "all"}
STEPS = 6


def transformer_case(dropout=0.1, **change):
    args = replace(
        exp_transformer_fr.PRESETS["small"], lr=2e-3, muon_lr=0.0, rows=4, length=16, dropout=dropout, steps=STEPS,
        warmup=2, clip=0.1, ema_decay=0.9, **change,
    )  # fmt: skip
    cfg = seq2seq.Config(
        1, 1, transformer.Config(width=16, heads=2, ff=32, dropout=dropout, position=args.position), 40, 40, shared=True
    )
    source = [[3 + (7 * i + j) % 37 for j in range(2 + i % 9)] for i in range(60)]
    corpus = packing.Tokens(source, [[3 + (5 * i + j) % 37 for j in range(1 + i % 7)] for i in range(60)])
    collate = partial(packing.collate, length=args.length, start=tokens.START, end=tokens.END)
    data = packing.batches(corpus, random.key(1), args.rows, collate, args.length)
    step = partial(exp_transformer_fr.step, cfg=cfg, args=args, dtype=torch.float32)
    return partial(exp_transformer_fr.init_state, cfg=cfg), step, args, [(next(data),) for _ in range(STEPS)]


def indexed(exp, data, n, args, classes=None):
    """Of experiments whose batches are numbers of examples."""
    more = {} if classes is None else {"classes": classes}
    indices = [random.randint(random.fold_in(random.key(2), i), (16,), 0, n) for i in range(STEPS)]
    return (
        partial(exp.init_state, **more),
        partial(exp.step, args=args, dtype=torch.float32),
        args,
        [(i, data) for i in indices],
    )


def pictures(n=32, side=28):
    pixels = random.randint(random.key(3), (n, 1, side, side), 0, 256).to(torch.uint8)
    return Images(pixels, random.randint(random.key(4), (n,), 0, 10).long())


def classifier_case(**change):
    args = replace(exp_classifier_fashion.PRESETS["best"], widths=(4, 8), lr=1e-4, steps=STEPS, **change)
    return indexed(exp_classifier_fashion, pictures(), 32, args, 10)


def fashion_case(**change):
    args = replace(exp_gan_fashion.PRESETS["small"], width=4, latent=6, conditional=True, **change)
    return indexed(exp_gan_fashion, pictures(), 32, args)


def cyclegan_case(**change):
    """Batches of 16 in a buffer of 32: from the third step on it gives back earlier translations. In double precision:
    weights of .02 under instance normalisation and Adam make a rounding error a hundred times larger in a step."""
    args = replace(
        exp_cyclegan_hair.PRESETS["small"], size=16, width=4, blocks=1, disc_width=4, disc_downs=1, batch=16, buffer=32,
        identity=0.5, flip=True, lr=5e-5, steps=STEPS, **change,
    )  # fmt: skip
    drawn = (random.randint(random.key(i), (32, 3, 16, 16), 0, 256).to(torch.uint8) for i in (3, 4))
    data = Domains(*drawn)
    init = lambda key, args: tree.cast(exp_cyclegan_hair.init_state(key, args), torch.float64)  # noqa: E731
    batches = indexed(exp_cyclegan_hair, data, 32, args)[-1]
    step = partial(exp_cyclegan_hair.step, args=args, dtype=torch.float64)
    return init, step, args, [(Domains(i, i.flip(0)), data) for i, _ in batches]


def dcgan_case(**change):
    args = exp_dcgan_faces.Args(size=16, width=4, latent=6, lr=1e-4, **change)
    pixels = random.randint(random.key(3), (32, 3, 16, 16), 0, 256).to(torch.uint8)
    return indexed(exp_dcgan_faces, pixels, 32, args)


def diffusion_case(**change):
    args = exp_diffusion_flowers.Args(size=16, widths=(8, 8), steps=STEPS, warmup=2, lr=2e-4, muon_lr=0.0, **change)
    pixels = random.randint(random.key(3), (32, 3, 16, 16), 0, 256).to(torch.uint8)
    return indexed(exp_diffusion_flowers, pixels, 32, args)


def text2image_case(**change):
    args = exp_text2image_flowers.Args(
        small=8, fine=8, width=16, heads=2, blocks=1, widths=(8, 8), steps=STEPS, warmup=2, lr=2e-4, muon_lr=0.0,
        **change,
    )  # fmt: skip
    pixels = random.randint(random.key(3), (32, 3, 16, 16), 0, 256).to(torch.uint8)
    texts = random.randint(random.key(4), (32, 3, 6), 2, 20).long()
    step = partial(exp_text2image_flowers.step, args=args, dtype=torch.float32)
    indices = [random.randint(random.fold_in(random.key(2), i), (16,), 0, 32) for i in range(STEPS)]
    init = partial(exp_text2image_flowers.init_state, vocabulary=20)
    return init, step, args, [(i, pixels, texts, {}) for i in indices]


def cgan_case(**change):
    """In double precision, for instance normalisation, as the CycleGAN's."""
    args = exp_cgan_glasses.Args(size=16, width=4, critic_width=8, latent=6, critic_steps=2, **change)
    pixels = random.randint(random.key(3), (64, 3, 16, 16), 0, 256).to(torch.uint8)
    data = exp_cgan_glasses.Labelled(pixels, torch.eye(3, dtype=torch.float64)[torch.arange(64) % 3])
    init = lambda key, args: tree.cast(exp_cgan_glasses.init_state(key, args, 3), torch.float64)  # noqa: E731
    step = partial(exp_cgan_glasses.step, args=args, dtype=torch.float64)
    indices = [random.randint(random.fold_in(random.key(2), i), (16, 2), 0, 64) for i in range(STEPS)]
    return init, step, args, [(i, data) for i in indices]


def dense_fashion_case(**change):
    args = replace(exp_gan_fashion.PRESETS["book"], latent=6, dropout=0.3, ema_decay=0.9, **change)
    return indexed(exp_gan_fashion, pictures(), 32, args)


def autoencoder_case(**change):
    args = replace(exp_autoencoder_digits.PRESETS["small"], hidden=(16,), shift=1, steps=STEPS, **change)
    return indexed(exp_autoencoder_digits, pictures(side=exp_autoencoder_digits.SIDE), 32, args)


def mixture_case(**change):
    args = replace(exp_mixture_points.PRESETS["small"], components=3, class_components=2, steps=STEPS, **change)
    x = random.normal(random.key(5), (32, 2))
    return indexed(exp_mixture_points, exp_mixture_points.Points(x, torch.arange(32) % 3), 32, args, 3)


def curve_case(points=0, **change):
    args = replace(
        exp_gan_curve.PRESETS["small"], generator=(8,), discriminator=(8,), batch=16, dropout=0.2, points=points,
        steps=STEPS, **change,
    )  # fmt: skip
    step = partial(exp_gan_curve.step, args=args, curve=exp_gan_curve.curve("exponential"))
    return exp_gan_curve.init_state, step, args, [()] * STEPS


def multiples_case(**change):
    args = replace(
        exp_gan_multiples.PRESETS["small"], generator=(8,), discriminator=(8,), batch=16, steps=STEPS, **change
    )
    return exp_gan_multiples.init_state, partial(exp_gan_multiples.step, args=args), args, [()] * STEPS


def vae_case(**change):
    args = exp_vae_faces.Args(size=16, width=4, code=6, lr=1e-3, kl_warmup=5, steps=STEPS, **change)
    pixels = random.randint(random.key(3), (32, 3, 16, 16), 0, 256).to(torch.uint8)
    return indexed(exp_vae_faces, pixels, 32, args)


def gpt_case(**change):
    args = replace(exp_gpt_hemingway.PRESETS["small"], dropout=0.2, length=12, steps=STEPS, warmup=2, **change)
    cfg = gpt.Config(40, args.length, 1, transformer.Config(**SIZE, dropout=args.dropout, **LLAMA))
    ids = random.randint(random.key(6), (400,), 0, 40).long()
    data = batches.windows(ids, random.key(1), 4, args.length)
    step = partial(exp_gpt_hemingway.step, cfg=cfg, args=args, dtype=torch.float32)
    return partial(exp_gpt_hemingway.init_state, cfg=cfg), step, args, [(next(data),) for _ in range(STEPS)]


def gpt2_case(**change):
    args = replace(exp_gpt2.PRESETS["small"], dropout=0.2, length=12, steps=STEPS, **change)
    cfg = gpt.Config(40, 16, 1, transformer.Config(**SIZE, dropout=args.dropout, **GPT2))
    released = gpt.init(random.key(9), cfg)
    ids = random.randint(random.key(6), (400,), 0, 40).long()
    data = batches.windows(ids, random.key(1), 4, args.length)
    step = partial(exp_gpt2.step, cfg=cfg, args=args, dtype=torch.float32)
    init = partial(exp_gpt2.init_state, cfg=cfg, released=released)
    return init, step, args, [(next(data),) for _ in range(STEPS)]


def bert_rows():
    """Rows of 5 to 12 tokens: shares of a batch have different numbers of words."""
    ids = random.randint(random.key(6), (32, 12), 5, 40).long()
    return torch.where(torch.arange(12) < 5 + torch.arange(32)[:, None] % 8, ids, tokens.PAD)


def sentiment_case(phase, **change):
    args = exp_bert_sentiment.Args(
        start="scratch", pretrain_steps=STEPS, steps=2 * STEPS, pretrain_lr=1e-3, lr=1e-3, dropout=0.2, **change
    )
    cfg, ids = bert.Config(40, 12, 1, bert.block_config(16, 2, 24, args.dropout)), bert_rows()
    init, step, args, batches = indexed(exp_bert_sentiment, exp_bert_sentiment.Rows(ids, ids[:, 0] % 2), 32, args, 2)
    return partial(init, cfg=cfg), partial(step, phase=phase, cfg=cfg), args, batches


def entities_case(**change):
    args = exp_bert_entities.Args(steps=STEPS, lr=1e-3, dropout=0.2, **change)
    cfg, ids = bert.Config(40, 12, 1, bert.block_config(16, 2, 24, args.dropout)), bert_rows()
    data = exp_bert_entities.Rows(ids, torch.where(ids % 3 > 0, ids % 5, tokens.NOTHING))
    init, step, args, batches = indexed(exp_bert_entities, data, 32, args, 5)
    return partial(init, cfg=cfg), partial(step, cfg=cfg), args, batches


def assistant_case(**change):
    args = exp_assistant.Args(start="scratch", steps=STEPS, lr=1e-3, dropout=0.2, **change)
    cfg, ids = bert.Config(40, 12, 1, bert.block_config(16, 2, 24, args.dropout)), bert_rows()
    data = exp_assistant.Rows(ids, ids[:, 0] % 17, torch.where(ids % 3 > 0, ids % 5, tokens.NOTHING))
    init, step, args, batches = indexed(exp_assistant, data, 32, args)
    return partial(init, cfg=cfg), partial(step, cfg=cfg), args, batches


def lstm_case(**change):
    args = replace(
        exp_lstm_novel.PRESETS["small"], embedding=6, hidden=8, rows=4, length=5, dropout=0.3, steps=STEPS, **change
    )
    ids = random.randint(random.key(6), (90,), 0, 40).long()  # four batches an epoch
    data = batches.streams(ids, args.rows, args.length)
    step = partial(exp_lstm_novel.step, args=args, dtype=torch.float32)
    return partial(exp_lstm_novel.init_state, v=40), step, args, [(next(data),) for _ in range(STEPS)]


def music_case(**change):
    """Pieces shorter than an excerpt: shares of a batch have different numbers of cells that count."""
    args = replace(
        exp_transformer_music.PRESETS["small"], layers=1, width=16, heads=2, ff=24, chord=6, head=12, rows=4, length=32,
        warmup=2, steps=STEPS, **change,
    )  # fmt: skip
    made = [random.randint(random.fold_in(random.key(6), i), (16 + 4 * i, 4), 0, 48).to(torch.int8) for i in range(8)]
    songs = [Piece("", cells, torch.arange(len(cells)) % 16, 16, 0) for cells in made]
    data = excerpts.batches(songs, random.key(1), args.rows, args.length)
    step = partial(exp_transformer_music.step, args=args, dtype=torch.float32)
    return exp_transformer_music.init_state, step, args, [(next(data),) for _ in range(STEPS)]


def piano_case(**change):
    args = replace(
        exp_transformer_piano.PRESETS["small"], layers=1, width=16, heads=2, ff=24, rows=4, length=16, warmup=2,
        steps=STEPS, **change,
    )  # fmt: skip
    windows = [(random.randint(random.fold_in(random.key(6), i), (4, 17), 0, 389).long(),) for i in range(STEPS)]
    step = partial(exp_transformer_piano.step, args=args, dtype=torch.float32)
    return exp_transformer_piano.init_state, step, args, windows


def musegan_case(**change):
    """Probabilities are heard, not the likeliest tokens, which a rounding error may change; voices do not listen, which
    they do to the likeliest; and layers are wide enough that none is all but silent, where to normalise it would make
    rounding errors large."""
    args = replace(
        exp_musegan_bach.PRESETS["small"], noise=8, temporal=32, bar=64, least=64, critic=8, lr=4e-5, penalty=1.0,
        output="soft", listen=False, steps=STEPS, **change,
    )  # fmt: skip
    cells = random.randint(random.key(6), (32, 32, 4), 1, 48).long()
    data = exp_musegan_bach.Windows(cells, *voices.shifts(voices.sounding(cells)))
    index = [random.randint(random.fold_in(random.key(2), i), (8, args.critic_steps), 0, 32) for i in range(STEPS)]
    return exp_musegan_bach.init_state, partial(exp_musegan_bach.step, args=args), args, [(i, data) for i in index]


def classify_case(**change):
    args = replace(exp_gpt2_classify.PRESETS["small"], tune="lora", rank=2, length=6, lr=1e-3, steps=STEPS, **change)
    cfg = gpt.Config(40, 8, 1, transformer.Config(**SIZE, dropout=0.0, **LLAMA))
    trunk, ids = gpt.init(random.key(1), cfg), random.randint(random.key(6), (32, args.length), 0, 40).long()
    data = Encoded(ids, random.randint(random.key(3), (32,), 0, args.length).long(), torch.arange(32) % 3)
    init = lambda key, args: exp_gpt2_classify.init_state(key, trunk, cfg, 3, args)  # noqa: E731
    step = partial(exp_gpt2_classify.step, cfg=cfg, args=args, dtype=torch.float32)
    indices = [random.randint(random.fold_in(random.key(2), i), (16,), 0, 32) for i in range(STEPS)]
    return init, step, args, [(i, data, trunk) for i in indices]


CASES = {
    "transformer": transformer_case, "classifier": classifier_case, "fashion": fashion_case,
    "dense_fashion": dense_fashion_case, "autoencoder": autoencoder_case, "mixture": mixture_case,
    "curve": curve_case, "curve_fixed": partial(curve_case, points=50), "multiples": multiples_case,
    "dcgan": dcgan_case, "dcgan_r1": partial(dcgan_case, norm="group", r1=1.0), "cgan": cgan_case,
    "cyclegan": cyclegan_case, "diffusion": diffusion_case, "meanflow": partial(diffusion_case, objective="meanflow"),
    "gpt": gpt_case, "gpt_adamw": partial(gpt_case, optimizer="adamw"), "gpt2": gpt2_case, "lstm": lstm_case,
    "classify": classify_case, "vae_faces": vae_case, "pretrain": partial(sentiment_case, "pretrain"),
    "sentiment": partial(sentiment_case, "finetune"), "text2image": text2image_case, "entities": entities_case,
    "assistant": assistant_case, "music": music_case, "piano": piano_case, "musegan": musegan_case,
}  # fmt: skip


def far(a, b):
    """The largest difference between two trees, relative where values are above 1."""
    pairs = zip(tree.leaves(a), tree.leaves(b), strict=True)
    return max(float(((x.double() - y) / x.abs().clamp(min=1)).abs().max()) for x, y in pairs if x.numel())


def train(case, ranks, wrap=lambda step: step, only=None):
    """The state after all steps, and the last one's outputs; by `ranks` together or by this process alone."""
    init, step, args, batches = case
    state, step = init(random.key(0), args=args), wrap(step)
    for batch in batches[:only]:
        mine = (parallel.shard(batch[0]), *batch[1:]) if ranks and batch else batch
        if ranks:
            with parallel.together():
                state, out = step(state, *mine)
        else:
            state, out = step(state, *mine)
    return state, out


def told_by_all(mine):
    """What each rank says, in their order."""
    said = [None] * parallel.size()
    torch.distributed.all_gather_object(said, mine)
    return said


def equals_one_process():
    """Of each case how far the steps of two ranks are from those of one process, and how far those went. Each rank
    is the one process of half of the cases."""
    halves = told_by_all(
        {name: train(CASES[name](), ranks=False) for name in [*CASES][parallel.rank() :: parallel.size()]}
    )
    found = {}
    for name, alone in sorted((pair for half in halves for pair in half.items()), key=lambda pair: pair[0]):
        init, _, args, _ = CASES[name]()
        ranked = train(CASES[name](), ranks=True)
        found[f"equals {name}"] = {
            "state": far(alone[0], ranked[0]), "out": far(alone[1], ranked[1]),
            "moved": far(alone[0][:1], init(random.key(0), args=args)[:1]),
        }  # fmt: skip
    return found


def compiled():
    """The same as one graph: all-reduce, dropout and the update of a sharded optimiser in it, or batch statistics."""
    graphs = 0

    def count(graph, _):
        nonlocal graphs
        graphs += 1
        return graph

    wrap = lambda step: torch.compile(step, fullgraph=True, dynamic=False, backend=count)  # noqa: E731
    case = transformer_case(shard_optimizer=True)
    alone, ranked = train(transformer_case(), ranks=False, only=3), train(case, ranks=True, wrap=wrap, only=3)
    init, _, args, _ = transformer_case()
    like = init(random.key(0), args=args)
    of_graphs, far_off = graphs, far(alone[0], parallel.gathered(ranked[0], like, 1))
    alone, ranked = (train(classifier_case(), ranks=r, wrap=w, only=3) for r, w in ((False, lambda f: f), (True, wrap)))
    return {"state": far_off, "graphs": of_graphs, "classifier": far(alone[0], ranked[0])}


def sharded(name):
    """A sharded optimiser against a whole one: the gathered state, and the share of the optimiser's numbers kept."""
    case, plain = CASES[name](shard_optimizer=True), CASES[name]()
    (state, _), (whole, _) = train(case, ranks=True), train(plain, ranks=True)
    gathered = parallel.gathered(state, whole, 1)
    back = parallel.scattered(gathered, state, 1)
    return {"state": far(whole, gathered), "back": far(state, back), "share": tree.size(state) / tree.size(whole)}


def vmapped():
    """Two replicas in one vmapped step of two ranks, and one after another."""
    init, step, args, _ = curve_case(shard_optimizer=True)
    states = [init(random.key(i), args=args) for i in range(2)]
    leaves = tree.leaves(tree.stack(states))
    one = lambda leaves: tree.leaves(step(tree.unflatten(states[0], leaves))[0])  # noqa: E731
    with parallel.together():
        both, single = torch.func.vmap(one)(leaves), [step(state)[0] for state in states]
    return {"state": far(both, tree.leaves(tree.stack(single)))}


def masks():
    """Rows of a draw: eager, compiled, and of the whole draw in one process."""
    key, n = random.key(7), 4
    draw = lambda: (nn.dropout(torch.ones(n, 5), 0.5, key), random.normal(key, (n, 3)), random.randint(key, (n,), 0, 9))  # noqa: E731
    whole = (
        nn.dropout(torch.ones(2 * n, 5), 0.5, key),
        random.normal(key, (2 * n, 3)),
        random.randint(key, (2 * n,), 0, 9),
    )
    with parallel.together():
        eager, graph = draw(), torch.compile(draw, backend="aot_eager", fullgraph=True)()
    mine = [x.chunk(2)[parallel.rank()] for x in whole]
    keys = random.split(key)
    with parallel.together():
        same_keys = all(torch.equal(a, b) for a, b in zip(keys, random.split(key), strict=True))
    equal = [all(torch.equal(a, b) for a, b in zip(x, mine, strict=True)) for x in (eager, graph)]
    return {"eager": equal[0], "compiled": equal[1], "keys": same_keys, "outside": torch.equal(draw()[0], whole[0][:n])}


def rows():
    """All ranks' rows in their order, and this rank's again: eager, in one graph, of replicas; nothing outside."""
    whole = torch.stack([random.normal(key, (4, 3)) for key in random.split(random.key(8), 5)])  # of five replicas
    of_rank = whole.chunk(2, 1)[parallel.rank()]
    outside = parallel.joined(of_rank) is of_rank and parallel.mine(whole) is whole
    both = lambda x: (parallel.joined(x), parallel.mine(2 * parallel.joined(x)))  # noqa: E731
    with parallel.together():
        eager, graph = both(of_rank[0]), torch.compile(both, backend="aot_eager", fullgraph=True)(of_rank[0])
        replicas = torch.func.vmap(both)(of_rank)
        turned = torch.func.vmap(both, in_dims=1)(of_rank.transpose(0, 1).contiguous())  # replicas in the second axis
        counts = parallel.mine(parallel.joined(torch.arange(2) + 10 * parallel.rank()))  # whole numbers too
    equal = lambda found, i: torch.equal(found[0], whole[i]) and torch.equal(found[1], 2 * of_rank[i])  # noqa: E731
    return {"outside": outside, "eager": equal(eager, 0), "compiled": equal(graph, 0),
            "replicas": equal(replicas, slice(None)), "turned": equal(turned, slice(None)),
            "counts": counts.tolist() == [10 * parallel.rank(), 10 * parallel.rank() + 1]}  # fmt: skip


def agreement():
    absent = parallel.missing() if parallel.rank() == 0 else []  # the other rank has not answered
    parallel.agree("and now it does")
    told = [parallel.told("found by both"), parallel.told("mine") if parallel.rank() else False]
    different = torch.full((100,), float(parallel.rank()))
    try:
        parallel.shard(torch.zeros(3))
        refused = ""
    except ParallelError as error:
        refused = str(error)
    return {
        "said": parallel.agree(f"rank {parallel.rank()}"), "any": parallel.any_rank(parallel.rank() == 1),
        "none": parallel.any_rank(False), "same": parallel.same({"a": torch.ones(3)}), "refused": refused,
        "different": parallel.same({"a": torch.ones(3), "b": different}), "told": told,
        "missing": [absent, parallel.missing()],
    }  # fmt: skip


def main():
    torch.set_num_threads(1)
    threefry._kernel = lambda fn: fn  # as in conftest: draws inside compiled steps run eagerly
    parallel.ANSWER = timedelta(seconds=0.5)
    parallel.join(cuda=False)
    found = equals_one_process()
    found |= {f"sharded {name}": sharded(name) for name in ("transformer", "classifier", "fashion")}
    found |= {"compiled": compiled(), "vmapped": vmapped(), "masks": masks(), "rows": rows(), "agreement": agreement()}
    said = told_by_all(found)
    if parallel.rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(said))


if __name__ == "__main__":
    main()
