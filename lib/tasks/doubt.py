"""Whether a translation may be wrong: what can be seen without knowing the right one."""

import torch
from tokenizers import Tokenizer

from lib.data import slots
from lib.data.tokens import END
from lib.models import seq2seq
from lib.tasks.translator import Translator

IMPROBABLE = -0.7  # nats a piece, below which a translation is doubtful (LOG.md)


@torch.no_grad()
def confidence(translator: Translator, texts: list[str], translations: list[str]) -> list[float]:
    """Mean log-probability in nats of the pieces of each sentence's translation, its end included."""
    found = []
    rows = [translator.ids(text, translation) for text, translation in zip(texts, translations, strict=True)]
    for i in range(0, len(rows), 128):
        sources, targets = ([row[side] for row in rows[i : i + 128]] for side in (0, 1))
        logits, _ = translator.forced(sources, targets)
        wanted = seq2seq.one_a_row([[*row, END] for row in targets], translator.device)
        nats = torch.log_softmax(logits.float(), dim=-1).gather(-1, wanted.ids[..., None])[..., 0]
        real = wanted.segment
        found += ((nats * real).sum(dim=1) / real.sum(dim=1)).tolist()
    return found


def repeats(translator: Translator, text: str, translation: str) -> bool:
    """Whether the translation says the same three times in a row, and the text does not."""
    source, target = translator.ids(text, translation)
    return _loops(translator.target, target) and not _loops(translator.source, source)


def _loops(tokenizer: Tokenizer, ids: list[int]) -> bool:
    """Whether pieces with a letter in them come three times in a row."""
    for n in range(1, len(ids) // 3 + 1):
        for i in range(len(ids) - 3 * n + 1):
            part = ids[i : i + n]
            if part * 3 == ids[i : i + 3 * n] and any(map(str.isalpha, tokenizer.decode(part))):
                return True
    return False


def plain(translator: Translator, text: str, translation: str) -> str:
    """Why a translation is wrong that can be seen in the words alone; empty where nothing is."""
    carried = translator.emptied(text)[1].values()
    there = slots.words(translation.lower())
    if lost := [word for word in carried if word.lower() not in there]:
        return f"it leaves out {', '.join(lost)}"
    shouted = text == text.upper()
    if unknown := [word for word in carried if word.islower() or (shouted and word.isalpha())]:
        return f"the model does not know {', '.join(unknown)}"
    return "it repeats itself" if repeats(translator, text, translation) else ""


def reasons(translator: Translator, texts: list[str], translations: list[str]) -> list[str]:
    """Why the translation of each sentence may be wrong; empty where there is no doubt."""
    found = []
    for text, translation, nats in zip(texts, translations, confidence(translator, texts, translations), strict=True):
        improbable = f"the model finds it improbable ({nats:.1f} nats a piece)" if nats < IMPROBABLE else ""
        found.append(plain(translator, text, translation) or improbable)
    return found
