"""The encoder-decoder Transformer over token sequences, and translation with it (Vaswani et al. 2017).

Axes: b rows, s source positions, t target positions, d model width, v vocabulary.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from lib import attention, decode, nn, random, transformer, tree
from lib.data.tokens import END, PAD, START, pieces
from lib.data.tokens import decode as to_text
from lib.data.tokens import encode as to_ids
from lib.random import Key
from lib.tree import Tree


@dataclass(frozen=True)
class Config:
    encoder_layers: int
    decoder_layers: int
    block: transformer.Config
    source_vocabulary: int
    target_vocabulary: int
    shared: bool  # one table embeds source and target and is the head (Press & Wolf 2017)


class Sequences(NamedTuple):
    """Token ids, their positions within their sentence, and the number of the sentence in its row (0: padding)."""

    ids: Int[Tensor, "b s"]
    position: Int[Tensor, "b s"]
    segment: Int[Tensor, "b s"]


def init(key: Key, cfg: Config) -> Tree:
    """{"embed": {"source", "target", "head"}, "encoder", "decoder"}; a shared table is one leaf, embed.source."""
    k_source, k_target, k_head, k_encoder, k_decoder = random.split(key, 5)
    d = cfg.block.width
    embed = {"source": nn.embedding_init(k_source, cfg.source_vocabulary, d)}
    if not cfg.shared:
        embed["target"] = nn.embedding_init(k_target, cfg.target_vocabulary, d)
        embed["head"] = nn.embedding_init(k_head, cfg.target_vocabulary, d)
    return {
        "embed": embed,
        "encoder": transformer.stack_init(k_encoder, cfg.encoder_layers, cfg.block),
        "decoder": transformer.stack_init(k_decoder, cfg.decoder_layers, cfg.block, cross=True),
    }


def table(params: Tree, name: str) -> Float[Tensor, "v d"]:
    """The table of "source", "target" or "head"."""
    return params["embed"].get(name, params["embed"]["source"])


def waves(longest: int, table: Float[Tensor, "v d"]) -> Float[Tensor, "n d"]:
    """Sinusoidal positions below `longest` in the dtype of the table."""
    return nn.sinusoidal_positions(longest, table.shape[1], table.device).to(table.dtype)


def embed(table: Float[Tensor, "v d"], ids: Int[Tensor, "b s"], waves: Float[Tensor, "..."]) -> Float[Tensor, "b s d"]:
    """Embeddings times sqrt(d) plus the waves of their positions (section 3.4)."""
    return nn.embedding(table, ids) * math.sqrt(table.shape[1]) + waves


def encode(params: Tree, source: Sequences, key: Key | None = None, *, cfg: Config) -> Float[Tensor, "b s d"]:
    k_embed, k_stack = random.split(key)
    vectors = table(params, "source")
    x = embed(vectors, source.ids, waves(source.ids.shape[1], vectors)[source.position])
    mask = attention.segment_mask(source.segment, source.segment)
    x = nn.dropout(x, cfg.block.dropout, k_embed)
    return transformer.stack(params["encoder"], x, mask, key=k_stack, cfg=cfg.block)[0]


def head(params: Tree, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t v"]:
    return F.linear(x, table(params, "head"))


def apply(
    params: Tree, source: Sequences, target: Sequences, key: Key | None = None, *, cfg: Config, weights: bool = False
) -> tuple[Float[Tensor, "b t v"], list[Tree]]:
    """Logits of each next target token, and with `weights` each decoder layer's cross-attention as "weights"."""
    k_encode, k_embed, k_stack = random.split(key, 3)
    memory = encode(params, source, k_encode, cfg=cfg)
    vectors = table(params, "target")
    x = embed(vectors, target.ids, waves(target.ids.shape[1], vectors)[target.position])
    x = nn.dropout(x, cfg.block.dropout, k_embed)
    mask = attention.segment_mask(target.segment, target.segment)
    mask = mask & attention.causal_mask(x.shape[1], x.device)
    # Padding attends to everything: fused attention may make NaN of a query that attends to nothing, and its gradient
    # would reach every weight.
    seen = attention.segment_mask(target.segment, source.segment) | rearrange(target.segment == 0, "b t -> b 1 t 1")
    x, layers = transformer.stack(params["decoder"], x, mask, memory, seen, k_stack, cfg=cfg.block, weights=weights)
    return head(params, x), layers


def matmul_weights(params: Tree) -> int:
    """Weights that take part in a matrix product for a target token and its share of the source: 2 FLOP each forward
    and 4 backward (Kaplan et al. 2020, table 1; attention scores and norms left out)."""
    return sum(x.numel() for x in tree.leaves([params["encoder"], params["decoder"], table(params, "head")]))


def one_a_row(rows: list[list[int]], device: torch.device) -> Sequences:
    """Unpacked sequences, padded to the longest."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    position = torch.arange(width, device=device).expand_as(ids)
    return Sequences(ids, position, (position < lengths[:, None]).int())


def start(params: Tree, source: Sequences, beams: int, length: int, *, cfg: Config) -> tuple[decode.Step, list[Tree]]:
    """What `decode` needs: the function from the last token and the cache to the next logits, and the first cache,
    for `beams` copies of each source and up to `length` target tokens."""
    memory = encode(params, source, cfg=cfg).repeat_interleave(beams, dim=0)
    seen = rearrange(source.segment > 0, "b s -> b 1 1 s").repeat_interleave(beams, dim=0)
    cache = transformer.stack_cache(params["decoder"], memory.shape[0], length, memory, memory)

    vectors = table(params, "target")
    places = waves(length, vectors)

    def step(token: Int[Tensor, "b"], cache: list[Tree]) -> tuple[Float[Tensor, "b v"], list[Tree]]:
        position = cache[0]["position"]
        x = embed(vectors, rearrange(token, "b -> b 1"), places[position])
        mask = transformer.cache_mask(position, 1, length)
        x, cache = transformer.stack(params["decoder"], x, mask, None, seen, cache=cache, cfg=cfg.block)
        return head(params, x)[:, 0], cache

    return step, cache


class Translator(NamedTuple):
    """Parameters with their tokenizers: text in, text out. `longest`: tokens of a sentence the model has seen."""

    params: Tree
    source: Tokenizer
    target: Tokenizer
    cfg: Config
    longest: int

    @torch.no_grad()
    def translate(
        self, texts: list[str], beams: int = 1, alpha: float = 0.6, key: Key | None = None, **sampling: float
    ) -> list[list[tuple[str, float]]]:
        """For each sentence its translations with scores, best first: `beams` of them from beam search, or a single
        one, greedy or with a key sampled (`sampling` as in `decode.generate`), whose score is 0. Sentences are
        batched with others of like length; tokens past `longest` are cut off."""
        ids = [[*row[: self.longest - 1], END] for row in to_ids(self.source, texts)]
        out: list[list[tuple[str, float]]] = [[] for _ in texts]
        order = sorted(range(len(texts)), key=lambda i: len(ids[i]))
        for i in range(0, len(order), 128):
            chunk = order[i : i + 128]
            batch_key = random.fold_in(key, i)
            found = self._batch([ids[j] for j in chunk], beams, alpha, batch_key, **sampling)
            for j, hypotheses in zip(chunk, found, strict=True):
                out[j] = hypotheses
        return out

    def _batch(
        self, rows: list[list[int]], beams: int, alpha: float, key: Key | None, **sampling: float
    ) -> list[list[tuple[str, float]]]:
        source = one_a_row(rows, self.device)
        length = min(self.longest, 2 * source.ids.shape[1] + 8)  # no sensible translation is longer
        step, cache = start(self.params, source, beams, length, cfg=self.cfg)
        first = torch.full((len(rows),), START, device=self.device)
        if beams == 1:
            ids = decode.generate(step, cache, first, length, END, key, **sampling)  # type: ignore[arg-type]
            return [[(text, 0.0)] for text in to_text(self.target, ids.tolist())]
        found, scores = decode.beam_search(step, cache, first, length, END, beams, alpha)
        pairs = zip(found.tolist(), scores.tolist(), strict=True)
        return [list(zip(to_text(self.target, ids), values, strict=True)) for ids, values in pairs]

    @property
    def device(self) -> torch.device:
        return self.params["embed"]["source"].device

    @torch.no_grad()
    def attention_map(self, text: str, translation: str) -> tuple[Float[Tensor, "t s"], list[str], list[str]]:
        """Cross-attention of the last decoder layer, averaged over heads, with the target and source tokens: row t is
        where the model looks as it predicts target token t."""
        ids = [*to_ids(self.source, [text])[0][: self.longest - 1], END]
        target = to_ids(self.target, [translation])[0][: self.longest - 1]
        source, shifted = one_a_row([ids], self.device), one_a_row([[START, *target]], self.device)
        _, layers = apply(self.params, source, shifted, cfg=self.cfg, weights=True)
        w = layers[-1]["weights"][0].float().mean(dim=0).cpu()
        return w, pieces(self.target, [*target, END]), pieces(self.source, ids)

    def translate_texts(self, texts: list[str], *args: Any, **options: Any) -> list[list[tuple[str, float]]]:
        """`translate` for texts of any length: cut into sentences the model can hold, put together again. An empty
        text stays empty. The score of a text is the sum of its sentences'."""
        cut = [self.sentences(text) for text in texts]
        found = iter(self.translate([s for parts in cut for s in parts], *args, **options))
        out = []
        for parts in cut:
            hypotheses = list(zip(*(next(found) for _ in parts), strict=True))
            joined = [(" ".join(t for t, _ in ranks), sum(score for _, score in ranks)) for ranks in hypotheses]
            out.append(joined or [("", 0.0)])
        return out

    def strange(self, text: str) -> bool:
        """Whether most words have letters that the tokenizer does not know and spells in bytes."""
        words = [[c for c in word if c.isalpha()] for word in text.split()]
        words = [letters for letters in words if letters]
        spelled = sum(max(map(len, to_ids(self.source, letters))) > 2 for letters in words)  # space and letter: two
        return 2 * spelled > len(words)

    def sentences(self, text: str) -> list[str]:
        """A text in pieces that the model can hold: its sentences, and where one is too long, runs of its words."""
        out = []
        for sentence in re.findall(r"\S.*?(?:[.!?]+[\"')]*(?=\s|$)|$)", text, flags=re.DOTALL):
            piece: list[str] = []
            for word in [part for whole in sentence.split() for part in self._parts(whole)]:
                if piece and not self._fits(" ".join([*piece, word])):
                    out.append(" ".join(piece))
                    piece = []
                piece.append(word)
            out.append(" ".join(piece))
        return out

    def _fits(self, text: str) -> bool:
        return len(to_ids(self.source, [text])[0]) < self.longest

    def _parts(self, word: str) -> list[str]:
        """A word that is too long by itself, halved until it fits."""
        if self._fits(word) or len(word) == 1:
            return [word]
        half = len(word) // 2
        return self._parts(word[:half]) + self._parts(word[half:])
