"""How a translator does on what people give it: hasty typing, names and numbers that it never saw; and whether it
doubts the right translations.
"""

from collections.abc import Callable

import torch

from lib import metrics, random
from lib.data import slots, typed
from lib.data.pairs import Pair
from lib.tasks import doubt
from lib.tasks.translator import Translator

TYPED: dict[str, Callable[[str], str]] = {
    "as_written": str,
    "lower_case": str.lower,
    "capitals": str.upper,
    "no_final_punctuation": typed.hasty,
}
BAD = 40.0  # chrF of a sentence below which its translation counts as bad


def typing(translator: Translator, sources: list[str], references: list[list[str]], beams: int) -> dict[str, float]:
    """BLEU of sentences as written and as typed, case and final punctuation aside."""
    wanted = [list(map(typed.hasty, targets)) for targets in references]
    every = [change(source) for change in TYPED.values() for source in sources]
    found = list(map(typed.hasty, translator.best(every, beams)))
    parts = [found[i : i + len(sources)] for i in range(0, len(found), len(sources))]
    scores = [metrics.bleu_chrf(part, wanted, lowercase=True)["bleu"] for part in parts]
    return dict(zip(TYPED, scores, strict=True))


def copying(translator: Translator, test: list[Pair], train: list[Pair], beams: int) -> tuple[dict[str, float], int]:
    """The share of names and numbers never seen in training that translations keep, of sources as written and in lower
    case, and of how many. The sentences are test pairs that share names or numbers, with others in their place."""
    seen = {word.lower() for side in typed.sides(train) for text in side for word in slots.words(text)}
    cases = typed.unseen(typed.corpus(test, typed.names(train)), seen, random.key(0))
    shares, count = {}, sum(len(new) for _, new in cases)
    for name in ("as_written", "lower_case"):
        found = translator.best([TYPED[name](source) for source, _ in cases], beams)
        kept = [
            w.lower() in slots.words(text.lower()) for (_, new), text in zip(cases, found, strict=True) for w in new
        ]
        shares[name] = sum(kept) / max(1, count)
    return shares, count


def doubting(
    translator: Translator, sources: list[str], found: list[str], references: list[list[str]]
) -> tuple[float, float, float]:
    """How well doubt finds bad translations: the area under the curve (the probability that a bad translation is more
    doubtful than a good one; NaN where all are bad or none), the share of bad ones, and the share that is marked as
    doubtful."""
    bad = torch.tensor([metrics.sentence_chrf(t, r) < BAD for t, r in zip(found, references, strict=True)])
    sure = torch.tensor(doubt.confidence(translator, sources, found))
    for i, (text, translation) in enumerate(zip(sources, found, strict=True)):
        if doubt.plain(translator, text, translation):
            sure[i] = -100.0
    of_bad, of_good = sure[bad][:, None], sure[~bad]
    area = ((of_bad < of_good) + 0.5 * (of_bad == of_good)).mean()
    return float(area), float(bad.float().mean()), float((sure < doubt.IMPROBABLE).float().mean())
