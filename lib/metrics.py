"""Scores of translations and of generated pictures."""

import re
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from sacrebleu.metrics import BLEU, CHRF
from torch import Tensor

from lib.faults import DataError

# Thai, Lao, Tibetan, Burmese, Khmer, kana, Chinese characters.
UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff]"
)


def unspaced(texts: Iterable[str]) -> bool:
    """Whether most letters are of scripts without spaces between words, such as Chinese and Thai. What cuts texts at
    spaces and punctuation, as BLEU's tokenizer 13a does, takes whole sentences for words there."""
    text = "".join(texts)
    return 2 * len(UNSPACED.findall(text)) > len(re.findall(r"[^\W\d_]", text))


_KANA = re.compile("[\u3040-\u30ff]")


def bleu_tokenizer(texts: list[str]) -> str:
    """The name of sacrebleu's tokenizer for the language of the texts: 13a where spaces part words, zh for Chinese,
    char (each character a word) for other scripts without spaces."""
    if not unspaced(texts):
        return "13a"
    return "zh" if re.search("[\u4e00-\u9fff]", "".join(texts)) and not _KANA.search("".join(texts)) else "char"


def bleu_chrf(translations: list[str], references: list[list[str]], lowercase: bool = False) -> dict[str, Any]:
    """Corpus BLEU (Papineni et al. 2002) and chrF (Popovic 2015) against all references of each sentence, with
    sacrebleu's signatures, BLEU's with the tokenizer for the references' language. `references[i]` are the references
    of `translations[i]`, one at least. `lowercase`: without regard to case."""
    width = max(len(r) for r in references)
    columns: list = [[r[j] if j < len(r) else None for r in references] for j in range(width)]
    tokenizer = bleu_tokenizer([text for texts in references for text in texts])
    bleu, chrf = BLEU(lowercase=lowercase, tokenize=tokenizer), CHRF(lowercase=lowercase)
    return {
        "bleu": bleu.corpus_score(translations, columns).score,
        "chrf": chrf.corpus_score(translations, columns).score,
        "bleu_signature": str(bleu.get_signature()),
        "chrf_signature": str(chrf.get_signature()),
    }


def sentence_chrf(translation: str, references: list[str]) -> float:
    """chrF of one sentence against its best reference."""
    return CHRF().sentence_score(translation, references).score


def check_kid(name: str, *parts: Tensor) -> None:
    """Raises DataError where held-out pictures of a data set are too few for `kid`: before anything is trained."""
    if min(map(len, parts)) < 2:
        raise DataError(f"{name}: fewer than two pictures are held out for validation or test, and KID needs two")


def kid(
    real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], subsets: int = 50, size: int = 1000
) -> tuple[float, float]:
    """Kernel inception distance (Binkowski et al. 2018) between two sets of features, mean and standard deviation over
    `subsets` random subsets: an unbiased squared distance with the kernel (x y / d + 1)^3, 0 for equal distributions.
    What it means depends on what made the features: name that beside the figure."""
    if min(len(real), len(fake)) < 2:
        raise ValueError("kid needs at least two examples on either side")
    from torchmetrics.image.kid import KernelInceptionDistance  # loaded here: few need it

    with warnings.catch_warnings():  # it warns of the memory that features take
        warnings.simplefilter("ignore")
        size = min(size, len(real), len(fake))
        meter = KernelInceptionDistance(torch.nn.Identity(), subsets=subsets, subset_size=size)
    meter.update(real.float().cpu(), real=True)
    meter.update(fake.float().cpu(), real=False)
    with torch.random.fork_rng(devices=[]):  # the subsets come from the global generator
        torch.manual_seed(0)
        mean, deviation = meter.compute()
    return float(mean), float(deviation)
