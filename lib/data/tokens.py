"""Tokenizers trained on the run's own corpus: byte-level byte-pair encoding (Sennrich et al. 2016; bytes as in GPT-2)
for translation, words, byte pairs or characters for language models, and BERT's pieces of words.

Every text in every script has a spelling, so there is no unknown token, but for BERT's tokenizer.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from lib.data import casing, slots
from lib.faults import DataError

PAD, START, END = 0, 1, 2
NOTHING = -100  # a target where nothing is to be predicted: what F.cross_entropy leaves out
_SIDES = ("source", "target")
_SPECIAL = ["<pad>", "<s>", "</s>"]
_ADDED = [*casing.MARKS, *slots.SLOTS]
SMALLEST = len(_SPECIAL) + 256 + len(_ADDED)  # entries of a vocabulary that spells every text
_SHOWN = dict(
    zip(_ADDED, ["^", "^^", "_", *(f"<{kind} {n}>" for kind in ("name", "number") for n in range(1, 5))], strict=True)
)
_BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MASK = (
    4  # as the ones before it are the first of what `train_wordpiece` makes; other vocabularies may differ but in PAD
)


def train_bpe(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A tokenizer of at most `vocabulary` entries, of which the first three are padding, start and end and the last
    ones the marks of `casing` and the `slots`. Digits are pieces by themselves."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    digits = pre_tokenizers.Split(Regex("[0-9]"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=False), digits])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(_ADDED),
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(map(casing.unmarked, texts), trainer)
    tokenizer.add_tokens([AddedToken(sign, normalized=False) for sign in _ADDED])
    return tokenizer


def train_lossless(level: str, text: str, vocabulary: int) -> Tokenizer:
    """A tokenizer of at most `vocabulary` entries, of which 256 are bytes, with `decode(encode(text).ids) == text` for
    every text: nothing is lower-cased, normalised or left out, so that bits per byte are honest at each level.

    `level`: "word" (words, numbers and runs of punctuation, each with the space before it, and white space, cut as
    GPT-2 does), "bpe" (merges of bytes inside those) or "char". Words and characters outside the vocabulary are spelled
    in bytes, which a model pays for. What the text has only once stays outside, so that a model learns to spell.
    There are no special tokens: a paragraph break is the neutral prompt. Raises DataError where the vocabulary cannot
    hold the bytes.
    """
    if vocabulary < 256:
        raise DataError(f"a vocabulary of {vocabulary}: at least 256, which are bytes")
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(cut.alphabet())  # one printable character for each byte
    if level == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary, min_frequency=2, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator([text], trainer)
    elif level == "word":
        words = [word for word, _ in cut.pre_tokenize_str(text)]
        # Without merges, what is no word of the vocabulary stays in bytes.
        model = models.BPE(_most_common(words, alphabet, vocabulary), [], ignore_merges=True)
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.ByteLevel()
    elif level == "char":
        names = [f"<0x{byte:02X}>" for byte in range(256)]  # as the library's byte fallback spells them
        tokenizer = Tokenizer(models.BPE(_most_common(text, names, vocabulary), [], byte_fallback=True))
        tokenizer.decoder = decoders.ByteFallback()
    else:
        raise ValueError(f"level {level} is neither word, bpe nor char")
    return tokenizer


def _most_common(units: Iterable[str], alphabet: list[str], vocabulary: int) -> dict[str, int]:
    """Numbers for the alphabet and for the most common units, those that occur once left out."""
    counts = Counter(units)
    for name in alphabet:
        counts.pop(name, None)
    common = [unit for unit, count in counts.most_common(max(0, vocabulary - len(alphabet))) if count > 1]
    return {unit: i for i, unit in enumerate([*alphabet, *common])}


def train_pair(sources: list[str], targets: list[str], vocabulary: int, shared: bool) -> tuple[Tokenizer, Tokenizer]:
    """A tokenizer for each side, of `casing.lower` sources and `casing.marked` targets; one for both where `shared`."""
    sides = list(map(casing.lower, sources)), list(map(casing.marked, targets))
    if shared:
        both = train_bpe([*sides[0], *sides[1]], vocabulary)
        return both, both
    return train_bpe(sides[0], vocabulary), train_bpe(sides[1], vocabulary)


def save_pair(folder: Path, tokenizers: tuple[Tokenizer, Tokenizer]) -> None:
    for tokenizer, side in zip(tokenizers, _SIDES, strict=True):
        save(folder, tokenizer, f".{side}")


def load_pair(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """Raises DataError where a run has no readable tokenizers, or ones that older code made."""
    source, target = (load(folder, f".{side}") for side in _SIDES)
    if any(target.token_to_id(sign) is None for sign in _ADDED):
        raise DataError(f"{folder} was made before there were marks of capitals and slots for names: train a new run")
    return source, target


def save(folder: Path, tokenizer: Tokenizer, side: str = "") -> None:
    tokenizer.save(str(folder / f"tokenizer{side}.json"))


def load(folder: Path, side: str = "") -> Tokenizer:
    """Raises DataError where a run has no readable tokenizer."""
    path = folder / f"tokenizer{side}.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower type
        raise DataError(f"{folder} has no readable tokenizers ({path.name}): {error}") from error


def wordpiece(vocabulary: Sequence[str]) -> Tokenizer:
    """BERT's lower-casing tokenizer of a given vocabulary, a list in the order of the ids: words, cut into the longest
    pieces that it has, with [CLS] before and [SEP] behind. Raises DataError where it lacks a special token."""
    ids = {piece: i for i, piece in enumerate(vocabulary)}
    if missing := [name for name in _BERT if name not in ids]:
        raise DataError(f"a vocabulary without {', '.join(missing)}")
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    tokenizer.add_special_tokens(_BERT)
    return tokenizer


def train_wordpiece(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """`wordpiece` with a vocabulary of at most so many pieces, found in the texts: every character, and what byte-pair
    encoding merges. The library's own trainer numbers pieces differently each time; here words begin with a mark, which
    tells the pieces that begin a word from those that go on (##)."""
    mark = "\u2581"
    found = Tokenizer(models.BPE())
    found.normalizer = normalizers.BertNormalizer(lowercase=True)
    words = [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace(mark, prepend_scheme="always")]
    found.pre_tokenizer = pre_tokenizers.Sequence(words)
    found.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocabulary, min_frequency=2, show_progress=False))
    pieces = [piece for piece, _ in sorted(found.get_vocab().items(), key=lambda item: item[1]) if piece != mark]
    letters = [piece for piece in pieces if len(piece) == 1]
    merged = [piece[1:] if piece.startswith(mark) else "##" + piece for piece in pieces if len(piece) > 1]
    every = [*_BERT, *letters, *("##" + letter for letter in letters), *merged]
    return wordpiece(list(dict.fromkeys(every))[:vocabulary])


def rows(tokenizer: Tokenizer, texts: list[str], length: int) -> tuple[Int[Tensor, "n length"], int]:
    """Texts as rows of a `wordpiece` tokenizer, [CLS] text [SEP], cut to `length` and padded with `PAD`; and how many
    were cut. Text that spells a special token is that token ([MASK])."""
    found = [e.ids[1:-1] for e in tokenizer.encode_batch(texts)]
    return framed(tokenizer, [ids[: length - 2] for ids in found], length), sum(len(ids) > length - 2 for ids in found)


def all_rows(tokenizer: Tokenizer, texts: list[str], length: int) -> Int[Tensor, "n length"]:
    """The same with nothing cut off: a text that is too long goes on in further rows."""
    found = [e.ids[1:-1] for e in tokenizer.encode_batch(texts)]
    parts = [ids[i : i + length - 2] for ids in found for i in range(0, len(ids), length - 2)]
    return framed(tokenizer, parts, length)


def framed(tokenizer: Tokenizer, parts: list[list[int]], length: int) -> Int[Tensor, "n length"]:
    """[CLS] part [SEP], padded; of parts of at most `length` - 2 ids."""
    start, end = (tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    padded = [[start, *ids, end] + [PAD] * (length - 2 - len(ids)) for ids in parts]
    return torch.tensor(padded, dtype=torch.int64).view(-1, length)


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> list[list[int]]:
    """Token ids, without special tokens (text that spells one is taken as text)."""
    tokenizer.encode_special_tokens = True
    return [e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def decode(tokenizer: Tokenizer, ids: Iterable[list[int]]) -> list[str]:
    """Text up to the first end token, special tokens left out."""
    cut = [row[: row.index(END)] if END in row else row for row in ids]
    return [text.strip() for text in tokenizer.decode_batch(cut, skip_special_tokens=True)]


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """Each token as readable text, for the axes of a picture."""
    texts = [_SPECIAL[i] if i < len(_SPECIAL) else tokenizer.decode([i]) for i in ids]
    return [_SHOWN.get(text, text) for text in texts]
