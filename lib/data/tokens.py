"""Byte-level byte-pair encoding, trained on the run's own corpus (Sennrich et al. 2016; bytes as in GPT-2).

Every text in every script has a spelling, so there is no unknown token.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from lib.data.sources import DataError

PAD, START, END = 0, 1, 2
_SIDES = ("source", "target")
_SPECIAL = ["<pad>", "<s>", "</s>"]


def train_bpe(texts: Iterable[str], vocabulary: int, lowercase: bool = False) -> Tokenizer:
    """A tokenizer of at most `vocabulary` entries; the first three are padding, start and end."""
    tokenizer = Tokenizer(models.BPE())
    steps = [normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_pair(sources: list[str], targets: list[str], vocabulary: int, shared: bool) -> tuple[Tokenizer, Tokenizer]:
    """A tokenizer for each side; one for both where `shared`."""
    if shared:
        both = train_bpe([*sources, *targets], vocabulary)
        return both, both
    return train_bpe(sources, vocabulary), train_bpe(targets, vocabulary)


def save_pair(folder: Path, tokenizers: tuple[Tokenizer, Tokenizer]) -> None:
    for tokenizer, side in zip(tokenizers, _SIDES, strict=True):
        tokenizer.save(str(folder / f"tokenizer.{side}.json"))


def load_pair(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """Raises DataError where a run has no readable tokenizers."""
    try:
        source, target = (Tokenizer.from_file(str(folder / f"tokenizer.{side}.json")) for side in _SIDES)
    except Exception as error:  # the library raises no narrower type
        raise DataError(f"{folder} has no readable tokenizers: {error}") from error
    return source, target


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids, without special tokens (text that spells one is taken as text)."""
    tokenizer.encode_special_tokens = True
    return [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]


def decode(tokenizer: Tokenizer, ids: Iterable[list[int]]) -> list[str]:
    """Text up to the first end token, special tokens left out."""
    cut = [row[: row.index(END)] if END in row else row for row in ids]
    return [text.strip() for text in tokenizer.decode_batch(cut, skip_special_tokens=True)]


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """Each token as readable text, for the axes of a picture."""
    return [_SPECIAL[i] if i < len(_SPECIAL) else tokenizer.decode([i]) for i in ids]
