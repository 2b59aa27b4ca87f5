"""Pictures with sentences about them: drawn ones of a scene, a folder of one's own, Oxford's flowers."""

import itertools
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from lib.data import captionfiles, captions
from lib.data.albums import PREFIX, Pictures, split_sizes
from lib.data.captions import Values
from lib.data.scenes import SCENES, Scene
from lib.faults import DataError

WAYS, MOST = 8, 10  # sentences of each drawn picture; of any other at most
TOLD = 0.8  # probability that a sentence tells an attribute


class Captioned(NamedTuple):
    """`texts`: the sentences of each picture of a split, one or more; `scene`: where the pictures are drawn."""

    pictures: Pictures
    texts: dict[str, list[list[str]]]
    scene: Scene | None


class Prompts(NamedTuple):
    """Sentences to draw for; what is wanted of each attribute, and which of them the sentence tells."""

    texts: list[str]
    wanted: dict[str, Int[Tensor, "n"]]
    told: dict[str, Bool[Tensor, "n"]]


def load(data: str = "default", data_dir: Path | None = None, size: int = 64, n: int = 10_000) -> Captioned:
    """`data`: one of scenes.SCENES, none of whose pictures shows a pair that is held out ("default": drawn flowers;
    "pairs": two of them; "faces"), "flowers102" (Oxford's with ten sentences each, under `data_dir`) or a folder with
    captions.tsv. Raises DataError."""
    if data not in SCENES:
        if data != "flowers102" and not Path(data).is_dir():
            raise DataError(f"--data {data}: neither {', '.join(SCENES)}, flowers102 nor a folder with captions.tsv")
        found = (
            captionfiles.flowers102(data_dir, size) if data == "flowers102" else captionfiles.folder(Path(data), size)
        )
        return Captioned(*found, None)
    scene = SCENES[data]
    seeds = {split: shown(scene, split, count) for split, count in split_sizes(n).items()}
    if same := scene.same:  # as faces.load: no double of a held-out one is trained on
        held = {same(seed) for split in ("val", "test") for seed in seeds[split]}
        seeds["train"] = [seed for seed in seeds["train"] if same(seed) not in held]
    texts = {split: [_sentences(scene, seed) for seed in found] for split, found in seeds.items()}
    return Captioned(scene.pictures(seeds, size), texts, scene)


def _sentences(scene: Scene, seed: str) -> list[str]:
    values = scene.attributes(seed)
    return [scene.caption(f"{seed} {way}", values, TOLD)[0] for way in range(WAYS)]


def encoded(
    found: Captioned, encode: Callable[[Sequence[str]], Tensor], known: Callable[[str], str], n: int
) -> Int[Tensor, "m ways l"]:
    """The numbers of the training pictures' sentences, as many of each: some stand twice, and of more than MOST the
    first count. Raises DataError where one is too long, also of those that are asked for and of held-out ones, so that
    it is told before anything is trained."""
    if scene := found.scene:
        asked = [*(prompts(scene, n, pair=pair) for pair in (None, *scene.unseen)), *changed(scene, n)]
        asked += [prompts(scene, 64, split="val")] + ([paraphrases(scene)] if scene.paraphrases else [])
        encode([known(text) for of in asked for text in of.texts])
        encode([text for name, values in scene.names.items() for value in values for text in scene.short(name, value)])
    encode([known(text) for split in ("val", "test") for texts in found.texts[split] for text in texts[:MOST]])
    ways = min(MOST, max(map(len, found.texts["train"])))
    return torch.stack([encode(list(itertools.islice(itertools.cycle(texts), ways))) for texts in found.texts["train"]])


def held_out(data: str, data_dir: Path | None, size: int, n: int) -> UInt8[Tensor, "m 3 size size"]:
    """The test pictures of `load` alone."""
    if data not in SCENES:
        return load(data, data_dir, size).pictures.test.pixels
    scene = SCENES[data]
    return scene.draw("test", shown(scene, "test", split_sizes(n)["test"]), size).pixels


def vocabulary(found: Captioned) -> list[str]:
    """All words of a scene's grammar, whichever pictures are trained on; of other sets those of training."""
    if found.scene is None:
        return captions.vocabulary(text for texts in found.texts["train"] for text in texts)
    seeds = [f"words-{i}" for i in range(2000)]
    return captions.vocabulary(found.scene.caption(s, found.scene.attributes(s), 1.0)[0] for s in seeds)


def shown(scene: Scene, split: str, n: int) -> list[str]:
    """The first n seeds of a split whose pictures have no pair of values that is held out."""
    every = (f"{PREFIX[split]}{i}" for i in itertools.count())
    return list(itertools.islice((s for s in every if not captions.unseen(scene.attributes(s), scene.unseen)), n))


def prompts(
    scene: Scene, n: int, told: float = 1.0, split: str = "test", pair: tuple[str, str] | None = None
) -> Prompts:
    """Sentences about n pictures of a split. With `pair`, two attributes, their values are ones that are held out,
    taken in turn; without it no sentence has such a pair."""
    seeds, held = shown(scene, split, n), sorted(scene.unseen[pair]) if pair else []
    fixed = [dict(zip(pair, held[i % len(held)], strict=True)) if pair else {} for i in range(n)]
    values = [scene.attributes(seed) | of for seed, of in zip(seeds, fixed, strict=True)]
    return _told(scene, [f"{seed} prompt" for seed in seeds], values, told)


def paraphrases(scene: Scene) -> Prompts:
    """Sentences in other words than those that are trained on."""
    texts, values = zip(*scene.paraphrases, strict=True)
    any_of = {name: known[0] for name, known in scene.names.items()}
    return _prompts(scene, list(texts), [any_of | of for of in values], values)


def changed(scene: Scene, n: int, split: str = "test") -> tuple[Prompts, Prompts]:
    """Sentences about n pictures that tell everything, and the same with another value of one attribute, each in its
    turn: that alone is told by the second, as `told` has it. No sentence has a pair that is held out."""
    seeds = shown(scene, split, n)
    before = [scene.attributes(seed) for seed in seeds]
    names = list(itertools.islice(itertools.cycle(scene.names), n))
    after = [_another(scene, values, name) for values, name in zip(before, names, strict=True)]
    one, other = (_told(scene, [f"{seed} prompt" for seed in seeds], values, 1.0) for values in (before, after))
    return one, other._replace(told={name: torch.tensor([name == of for of in names]) for name in scene.names})


def _another(scene: Scene, values: Values, name: str) -> Values:
    """With the next value of an attribute that can be."""
    known = scene.names[name]
    at = known.index(values[name])
    return next(
        made for value in known[at + 1 :] + known[:at]
        if scene.can_be(made := values | {name: value}) and not captions.unseen(made, scene.unseen)
    )  # fmt: skip


def _told(scene: Scene, seeds: list[str], values: list[Values], told: float) -> Prompts:
    made = [scene.caption(seed, one, told) for seed, one in zip(seeds, values, strict=True)]
    return _prompts(scene, [text for text, _ in made], values, [names for _, names in made])


def _prompts(scene: Scene, texts: list[str], values: list[Values], told: Sequence[Container[str]]) -> Prompts:
    wanted = {name: torch.tensor([known.index(one[name]) for one in values]) for name, known in scene.names.items()}
    return Prompts(texts, wanted, {name: torch.tensor([name in of for of in told]) for name in scene.names})
