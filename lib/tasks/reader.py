"""How sentences become the numbers that a model reads: by a vocabulary of one's own, or by MiniLM's pieces of words.

Axes: n sentences, l numbers of each.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

from lib.data import captions
from lib.faults import DataError


class Reader(NamedTuple):
    """`encode`: rows that begin with one number, which alone is a text of no words, and are padded with captions.PAD;
    raises DataError. `tokens`: what the numbers behind the first stand for. `known`: a text without the words that
    `encode` would refuse."""

    encode: Callable[[Sequence[str]], Int[Tensor, "n l"]]
    tokens: Callable[[str], list[str]]
    known: Callable[[str], str]


def own(vocabulary: list[str], length: int) -> Reader:
    return Reader(
        partial(captions.encode, known=vocabulary, length=length),
        captions.words,
        lambda text: " ".join(word for word in captions.words(text) if word in vocabulary),
    )


def pieces(tokenizer: Tokenizer, length: int) -> Reader:
    """Of a tokenizer that puts [CLS] before a text and [SEP] behind it, which is left out: any word is known."""

    def encode(texts: Sequence[str]) -> Int[Tensor, "n l"]:
        found = torch.full((len(texts), length), captions.PAD, dtype=torch.int64)
        for i, row in enumerate(tokenizer.encode_batch(list(texts))):
            ids = row.ids[:-1]
            if len(ids) > length:
                raise DataError(f"{len(ids) - 1} pieces of words are too many: at most {length - 1}, in {texts[i]!r}")
            found[i, : len(ids)] = torch.tensor(ids)
        return found

    return Reader(encode, lambda text: tokenizer.encode(text).tokens[1:-1], lambda text: text)
