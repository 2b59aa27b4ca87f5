"""A translator: a model with its tokenizers, for texts of any length, and where it looks."""

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor

from lib import decode, metrics, random
from lib.answers import Steps
from lib.data import casing, sentences, slots
from lib.data.tokens import END, START, pieces
from lib.data.tokens import decode as to_text
from lib.data.tokens import encode as to_ids
from lib.models import seq2seq
from lib.random import Key
from lib.tasks import likely
from lib.tree import Tree

Hypothesis: TypeAlias = tuple[str, float]  # a translation and its score


class Translator(NamedTuple):
    """Parameters with their tokenizers and the words of the training sources: text in, text out. `longest`: tokens of a
    sentence the model has seen."""

    params: Tree
    source: Tokenizer
    target: Tokenizer
    lexicon: slots.Lexicon
    cfg: seq2seq.Config
    longest: int

    @torch.no_grad()
    def translate(
        self, texts: list[str], beams: int = 1, alpha: float = 0.6, key: Key | None = None, **sampling: float
    ) -> list[list[Hypothesis]]:
        """For each sentence its translations with scores, best first: `beams` of them from beam search, or a single
        one, greedy or with a key sampled (`sampling` as in `decode.generate`), whose score is 0. Sentences are
        batched with others of like length; tokens past `longest` are cut off."""
        emptied = [self.emptied(text) for text in texts]
        ids = [[*row, END] for row in self._source_ids(text for text, _ in emptied)]
        out: list[list[Hypothesis]] = [[] for _ in texts]
        same = {tuple(row): i for i, row in enumerate(ids)}  # what is written in another case is translated once
        order = sorted(same.values() if key is None else range(len(ids)), key=lambda i: len(ids[i]))
        for i in range(0, len(order), 128):
            chunk = order[i : i + 128]
            batch_key = random.fold_in(key, i)
            found = self._batch([ids[j] for j in chunk], beams, alpha, batch_key, **sampling)
            for j, hypotheses in zip(chunk, found, strict=True):
                out[j] = hypotheses
        out = [out[same[tuple(row)]] for row in ids] if key is None else out
        return [
            [
                (casing.restored(slots.filled(found, content)) if _says(source) else text, score)
                for found, score in ranks
            ]
            for text, ranks, (source, content) in zip(texts, out, emptied, strict=True)
        ]

    def _batch(
        self, rows: list[list[int]], beams: int, alpha: float, key: Key | None, **sampling: float
    ) -> list[list[Hypothesis]]:
        source = seq2seq.one_a_row(rows, self.device)
        length = min(self.longest, 2 * source.ids.shape[1] + 8)  # no sensible translation is longer
        step, cache = seq2seq.start(self.params, source, beams, length, cfg=self.cfg)
        first = torch.full((len(rows),), START, device=self.device)
        if beams == 1:
            ids = decode.generate(step, cache, first, length, END, key, **sampling)  # type: ignore[arg-type]
            return [[(text, 0.0)] for text in to_text(self.target, ids.tolist())]
        found, scores = decode.beam_search(step, cache, first, length, END, beams, alpha)
        ranked = zip(found.tolist(), scores.tolist(), strict=True)
        return [list(zip(to_text(self.target, ids), values, strict=True)) for ids, values in ranked]

    def emptied(self, text: str) -> tuple[str, dict[str, str]]:
        """The text with slots in place of what is carried over, and what that is."""
        return slots.emptied(text, self.lexicon.carried(text))

    def ids(self, text: str, translation: str) -> tuple[list[int], list[int]]:
        """Pieces of both, slots in place of what is carried over, as many as the model can hold, without an end."""
        source, content = self.emptied(text)
        target = to_ids(self.target, [casing.marked(slots.refilled(translation, content))])[0]
        return self._source_ids([source])[0], target[: self.longest - 1]

    def _source_ids(self, emptied: Iterable[str]) -> list[list[int]]:
        return [row[: self.longest - 1] for row in to_ids(self.source, map(casing.lower, emptied))]

    @property
    def device(self) -> torch.device:
        return self.params["embed"]["source"].device

    @torch.no_grad()
    def steps(self, text: str, translation: str) -> Steps:
        """How probable each piece of the translation was, and where the model looked as it predicted it: the
        cross-attention of the last decoder layer, averaged over heads."""
        source, target = self.ids(text, translation)
        logits, looked = self._looked(source, target)
        named = lambda i: pieces(self.target, [i])[0]  # noqa: E731
        read = pieces(self.source, [*source, END])
        return likely.steps(torch.tensor([*target, END]), [logits], named, read=read, looked=looked)

    def _looked(self, source: list[int], target: list[int]) -> tuple[Float[Tensor, "t v"], Float[Tensor, "t s"]]:
        logits, layers = self.forced([source], [target], weights=True)
        return logits[0], layers[-1]["weights"][0].float().mean(dim=0).cpu()

    @torch.no_grad()
    def attention_map(self, text: str, translation: str) -> tuple[Float[Tensor, "t s"], list[str], list[str]]:
        """Where the model looks, with the pieces of the translation, one a row, and of the text."""
        source, target = self.ids(text, translation)
        looked = self._looked(source, target)[1]
        return looked, pieces(self.target, [*target, END]), pieces(self.source, [*source, END])

    def says(self, text: str) -> bool:
        """Whether there is anything to translate: numbers, signs and a lone name stay as they are."""
        return _says(self.emptied(text)[0])

    def forced(self, sources: list[list[int]], targets: list[list[int]], weights: bool = False) -> tuple[Tensor, Any]:
        """`seq2seq.apply` to translations that are given."""
        source = seq2seq.one_a_row([[*row, END] for row in sources], self.device)
        shifted = seq2seq.one_a_row([[START, *row] for row in targets], self.device)
        return seq2seq.apply(self.params, source, shifted, cfg=self.cfg, weights=weights)

    def by_sentence(self, texts: list[str], *args: Any, **options: Any) -> list[list[tuple[str, list[Hypothesis]]]]:
        """`translate` for texts of any length: each text's sentences, or parts of one that is too long, with their
        translations. An empty text has none."""
        cut = [self.sentences(text) for text in texts]
        found = iter(self.translate([s for parts in cut for s in parts], *args, **options))
        return [[(sentence, next(found)) for sentence in parts] for parts in cut]

    def best(self, texts: list[str], beams: int = 1) -> list[str]:
        """The likeliest translation of each sentence."""
        return [hypotheses[0][0] for hypotheses in self.translate(texts, beams)]

    def strange(self, text: str) -> bool:
        """Whether most words have letters that the tokenizer does not know and spells in bytes."""
        parted = metrics.UNSPACED.sub(r" \g<0> ", text)  # in scripts without spaces each character is a word
        words = [[c for c in word if c.isalpha()] for word in parted.split()]
        words = [letters for letters in words if letters]
        spelled = sum(max(map(len, self._source_ids(letters))) > 2 for letters in words)  # space and letter: two
        return 2 * spelled > len(words)

    def sentences(self, text: str) -> list[str]:
        """A text in pieces that the model can hold: its sentences, and parts of one that is too long."""
        return [piece for sentence in sentences.sentences(text) for piece in sentences.pieces(sentence, self._fits)]

    def _fits(self, text: str) -> bool:
        return len(to_ids(self.source, [casing.lower(self.emptied(text)[0])])[0]) < self.longest


def _says(emptied: str) -> bool:
    return any(map(str.isalpha, emptied))


def joined(parts: list[tuple[str, list[Hypothesis]]]) -> list[Hypothesis]:
    """The translations of a whole text from those of its sentences. Its score is the sum of theirs."""
    ranks = zip(*(hypotheses for _, hypotheses in parts), strict=True)
    found = [(sentences.joined(text for text, _ in rank), sum(score for _, score in rank)) for rank in ranks]
    return found or [("", 0.0)]
