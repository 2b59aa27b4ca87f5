"""Whether a translation may be wrong: what can be seen without knowing the right one."""

import torch
from tokenizers import Tokenizer

from lib.data.tokens import END
from lib.models import seq2seq
from lib.tasks.translator import Translator

IMPROBABLE = -1.0  # nats a piece, below which a translation is doubtful (LOG.md)


@torch.no_grad()
def confidence(translator: Translator, texts: list[str], translations: list[str]) -> list[float]:
    """Mean log-probability in nats of the pieces of each sentence's translation, its end included."""
    found = []
    for i in range(0, len(texts), 128):
        targets = translator.target_ids(translations[i : i + 128])
        logits, _ = translator.forced(translator.source_ids(texts[i : i + 128]), targets)
        wanted = seq2seq.one_a_row([[*row, END] for row in targets], translator.device)
        nats = torch.log_softmax(logits.float(), dim=-1).gather(-1, wanted.ids[..., None])[..., 0]
        real = wanted.segment
        found += ((nats * real).sum(dim=1) / real.sum(dim=1)).tolist()
    return found


def repeats(translator: Translator, text: str, translation: str) -> bool:
    """Whether a piece of the translation comes three times in a row, and none of the text."""
    source, target = translator.source_ids([text])[0], translator.target_ids([translation])[0]
    return _runs(translator.target, target) and not _runs(translator.source, source)


def _runs(tokenizer: Tokenizer, ids: list[int]) -> bool:
    """Whether a piece with a letter in it comes three times in a row."""
    again = {a for a, b, c in zip(ids, ids[1:], ids[2:], strict=False) if a == b == c}
    return any(any(map(str.isalpha, tokenizer.decode([piece]))) for piece in again)


def reasons(translator: Translator, texts: list[str], translations: list[str]) -> list[str]:
    """Why the translation of each sentence may be wrong; empty where there is no doubt."""
    found = []
    for text, translation, nats in zip(texts, translations, confidence(translator, texts, translations), strict=True):
        if repeats(translator, text, translation):
            found.append("it repeats itself")
        else:
            found.append(f"the model finds it improbable ({nats:.1f} nats a piece)" if nats < IMPROBABLE else "")
    return found
