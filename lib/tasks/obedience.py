"""How much of what sentences say is drawn, by a judge that knows what is to be seen.

Pictures have values in [-1, 1]. Axes: n pictures, h height, w width.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lib.data import captioned
from lib.data.captioned import Captioned, Prompts
from lib.data.scenes import Scene
from lib.tasks import generated
from lib.tasks.judge import Judge
from lib.tasks.painter import Painter

EDIT_STEPS = 40  # to noise, and as many back


def obeyed(
    painter: Painter, judge: Judge, prompts: Prompts, guidance: float, seed: int = 4
) -> tuple[dict[str, float], Float[Tensor, "n 3 h w"]]:
    """`seen` of the pictures that are drawn for the sentences, and those."""
    x = generated.quantised(painter.drawn(prompts.texts, range(len(prompts.texts)), seed, guidance))
    return seen(judge, x, prompts), x


def seen(judge: Judge, x: Float[Tensor, "n 3 h w"], prompts: Prompts) -> dict[str, float]:
    """The share of what sentences tell that the judge sees in pictures: of each attribute, and under "all" of pictures
    in which everything that was told is seen."""
    right = {name: value == prompts.wanted[name] for name, value in read(judge, x).items()}
    found = {name: float(ok[prompts.told[name]].float().mean()) for name, ok in right.items()}
    everything = torch.stack([ok | ~prompts.told[name] for name, ok in right.items()]).all(0)
    return found | {"all": float(everything.float().mean())}


def read(judge: Judge, x: Float[Tensor, "n 3 h w"]) -> dict[str, Tensor]:
    """The likeliest value of each attribute, on the CPU."""
    return {name: p.argmax(1).cpu() for name, p in judge.probabilities(x).items()}


def moved(
    judge: Judge, before: Float[Tensor, "n 3 h w"], after: Float[Tensor, "n 3 h w"], prompts: Prompts
) -> dict[str, float]:
    """Of pictures in which what `prompts` tell was to change and nothing else: the share in which the judge sees it,
    and the share in which it sees all the rest as before."""
    was, now = read(judge, before), read(judge, after)
    made = [(now[name] == prompts.wanted[name]) | ~told for name, told in prompts.told.items()]
    rest = [(now[name] == was[name]) | told for name, told in prompts.told.items()]
    return {name: float(torch.stack(ok).all(0).float().mean()) for name, ok in (("obeyed", made), ("kept", rest))}


def told(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {100 * share:.1f} %" for name, share in scores.items())


def watched(
    painter: Painter, judge: Judge, found: Captioned, guidance: float, n: int = 64
) -> tuple[dict[str, float], Float[Tensor, "n 3 h w"]]:
    """During training, of validation: what is `obeyed`, or `preferred` where nobody knows what is to be seen."""
    if found.scene:
        return obeyed(painter, judge, captioned.prompts(found.scene, n, split="val"), guidance)
    texts = [painter.reader.known(ways[0]) for ways in found.texts["val"][:n]]
    x = found.pictures.val.pixels[:n].to(painter.device) / 127.5 - 1
    share = preferred(painter, x, texts)
    return {"preferred": share}, painter.drawn(texts[: n // 2], range(len(texts[: n // 2])), 4, guidance)


Report = tuple[dict[str, float], list[str], list[str], Float[Tensor, "n 3 h w"]]


def report(painter: Painter, judge: Judge, found: Captioned, n: int, guidance: float, flip: bool) -> Report:
    """(scores, the lines that print them, n sentences, a picture for each)."""
    if found.scene:
        return _of_scene(painter, judge, found.scene, found.pictures.test.pixels, n, guidance)
    return _told_apart(painter, judge, found, n, guidance, flip)


def _of_scene(
    painter: Painter, judge: Judge, scene: Scene, held_out: UInt8[Tensor, "m 3 h w"], n: int, guidance: float
) -> Report:
    """Beside what is obeyed: what another sentence would be, what is without guidance and for no sentence, and for
    pairs that no training picture showed; one value changed under the same noise; an eighth as many held-out pictures
    edited and described."""
    scores: dict[str, float] = {}
    lines = [f"of {n:,} sentences that tell everything, the judge {judge.name} sees in their pictures"]

    def tell(name: str, found: dict[str, float]) -> None:
        lines.append(f"  {name:<26}{told(found)}")
        scores.update({f"test/{name.replace(' ', '_')}/{key}": value for key, value in found.items()})

    prompts, (before, after) = captioned.prompts(scene, n), captioned.changed(scene, n)
    found, x = obeyed(painter, judge, prompts, guidance)
    tell("obeyed", found)
    others = prompts._replace(wanted={name: value.roll(1) for name, value in prompts.wanted.items()})
    tell("of another sentence", seen(judge, x, others))
    if guidance != 1:
        tell("without guidance", obeyed(painter, judge, prompts, 1.0)[0])
    tell("for no sentence", obeyed(painter, judge, prompts._replace(texts=[""] * n), 1.0)[0])
    for pair in scene.unseen:
        held = captioned.prompts(scene, n, pair=pair)
        tell(f"unseen {' and '.join(pair)}", obeyed(painter, judge, held, guidance)[0])
    if scene.paraphrases:
        asked = captioned.paraphrases(scene)
        known = asked._replace(texts=[painter.reader.known(text) for text in asked.texts])
        tell("paraphrases", obeyed(painter, judge, known, guidance)[0])
        nothing = asked._replace(texts=[""] * len(asked.texts))
        tell("without the paraphrases", obeyed(painter, judge, nothing, guidance)[0])
    lines.append("of pictures in which one value is to change, the judge sees it, and all the rest as before, in")
    y = obeyed(painter, judge, after, guidance)[1]  # `before` are the sentences of x
    tell("another word", moved(judge, x, y, after))
    tell("nothing changed", moved(judge, x, x, after))
    tell("other pictures", moved(judge, x.roll(1, 0), x, after))
    real = held_out[: max(2, n // 8)].to(painter.device) / 127.5 - 1
    few = len(real)
    y = generated.quantised(painter.edited(real, before.texts[:few], after.texts[:few], guidance, EDIT_STEPS))
    wanted, kinds = ({name: value[:few] for name, value in of.items()} for of in (after.wanted, after.told))
    tell("edited", moved(judge, real, y, Prompts(after.texts[:few], wanted, kinds)))
    lines.append(f"of {few:,} held-out pictures, described rightly are, of each attribute")
    truth = {name: value[:few] for name, value in before.wanted.items()}
    guessed = {name: p.argmax(1).cpu() for name, p in painter.described(real, scene, draws=1).items()}
    for name, values in (("by the painter", guessed), ("by the judge", read(judge, real))):
        tell(name, {key: float((values[key] == value).float().mean()) for key, value in truth.items()})
    return scores, lines, prompts.texts, x


def preferred(painter: Painter, x: Float[Tensor, "n 3 h w"], texts: Sequence[str], draws: int = 1) -> float:
    """The share of pictures that their own sentence explains better than that of the next picture; by chance .5, and
    .5 for sentences that are the same."""
    pairs = [[own, other] for own, other in zip(texts, [*texts[1:], texts[0]], strict=True)]
    own, other = painter.errors(x, pairs, draws).unbind(1)
    return float(((own < other).float() + 0.5 * (own == other)).mean())


def _told_apart(painter: Painter, judge: Judge, found: Captioned, n: int, guidance: float, flip: bool) -> Report:
    """How well sentences of held-out pictures tell them apart, and how like those the drawn ones are. Words that the
    reader does not know are left out."""
    texts = [painter.reader.known(ways[0]) for ways in found.texts["test"][:n]]
    x = found.pictures.test.pixels[: len(texts)].to(painter.device) / 127.5 - 1
    share = preferred(painter, x, texts)
    y = generated.quantised(painter.drawn(texts, range(len(texts)), 4, guidance))
    scores, lines, _ = generated.scored(judge, y, found.pictures, flip)
    lines.append(f"of {len(texts):,} held-out pictures, explained by their own sentence better than by another's")
    lines.append(f"  {'of each its first':<26}{100 * share:.1f} %; by chance 50 %")
    return scores | {"test/preferred": share}, lines, texts, y
