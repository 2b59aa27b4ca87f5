"""The book's own way of working (docs/REFERENCE.md, chapters 9 and 10), written down anew as the bench's baseline.

What makes it the book's: every part its own nn.Module, attention written out, a linear feed-forward, padded batches of
sentence pairs sorted by English length with masks built for each batch, label smoothing as a distribution filled by
scatter, fp32 without compilation, and translation of one sentence at a time that runs the decoder over the whole
prefix again for every token. With vocabularies of 11,055 and 11,239 it has the book's 19,655,911 parameters.
Axes: b sentences, s source positions, t target positions, d model width, h heads, c channels per head, v vocabulary.
"""

import math
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib import decode
from lib.data.packing import Tokens
from lib.data.tokens import END, PAD, START
from lib.models import seq2seq
from lib.tree import Tree
from tests.bench.modules import noam

LONGEST = 5000  # positions the table of waves holds
MAX_TOKENS = 100  # of a translation


class LayerNorm(nn.Module):
    """Ba et al. 2016 with the unbiased standard deviation, eps beside it and not under the root."""

    def __init__(self, d: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.scale, self.bias, self.eps = nn.Parameter(torch.ones(d)), nn.Parameter(torch.zeros(d)), eps

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        centred = x - x.mean(-1, keepdim=True)
        return self.scale * centred / (x.std(-1, keepdim=True) + self.eps) + self.bias


class Attention(nn.Module):
    """Multi-head attention with biases; scores, mask, softmax and dropout written out."""

    def __init__(self, d: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(d, d) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "b t d"], memory: Float[Tensor, "b s d"], mask: Bool[Tensor, "b #t s"]
    ) -> Float[Tensor, "b t d"]:
        q, k, v = (self.split(y) for y in (self.q(x), self.k(memory), self.v(memory)))
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~mask[:, None], -1e9)
        weights = self.dropout(scores.softmax(dim=-1))
        y = torch.matmul(weights, v).transpose(1, 2).contiguous()
        return self.out(y.view(*x.shape))

    def split(self, y: Float[Tensor, "b s d"]) -> Float[Tensor, "b h s c"]:
        return y.view(y.shape[0], y.shape[1], self.heads, -1).transpose(1, 2)


class Layer(nn.Module):
    """A pre-norm encoder layer, or with `cross` a decoder layer."""

    def __init__(self, d: int, heads: int, ff: int, dropout: float, cross: bool) -> None:
        super().__init__()
        self.attend = nn.ModuleList(Attention(d, heads, dropout) for _ in range(1 + cross))
        self.ff = nn.Sequential(nn.Linear(d, ff), nn.Dropout(dropout), nn.Linear(ff, d))
        self.norms = nn.ModuleList(LayerNorm(d) for _ in range(2 + cross))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor, memory: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Float[Tensor, "b t d"]:
        h = self.norms[0](x)
        x = x + self.dropout(self.attend[0](h, h, mask))
        if memory is not None:
            x = x + self.dropout(self.attend[1](self.norms[1](x), memory, memory_mask))
        return x + self.dropout(self.ff(self.norms[-1](x)))


class Embedding(nn.Module):
    """A table times sqrt(d), plus sinusoidal positions, with dropout."""

    def __init__(self, vocabulary: int, d: int, dropout: float) -> None:
        super().__init__()
        self.table, self.dropout = nn.Embedding(vocabulary, d), nn.Dropout(dropout)
        angle = torch.arange(LONGEST)[:, None] * torch.exp(torch.arange(0, d, 2) * (-math.log(10000.0) / d))
        waves = torch.zeros(LONGEST, d)
        waves[:, 0::2], waves[:, 1::2] = angle.sin(), angle.cos()
        self.register_buffer("waves", waves, persistent=False)

    def forward(self, ids: Int[Tensor, "b s"]) -> Float[Tensor, "b s d"]:
        x = self.table(ids) * math.sqrt(self.table.embedding_dim)
        return self.dropout(x + self.waves[: ids.shape[1]])


class Book(nn.Module):
    """Encoder, decoder and generator, weights Xavier-uniform. Of `cfg` the sizes and the dropout are used."""

    def __init__(self, cfg: seq2seq.Config) -> None:
        super().__init__()
        d, dropout = cfg.block.width, cfg.block.dropout
        layer = partial(Layer, d, cfg.block.heads, cfg.block.ff, dropout)
        self.source = Embedding(cfg.source_vocabulary, d, dropout)
        self.target = Embedding(cfg.target_vocabulary, d, dropout)
        self.encoder = nn.ModuleList(layer(cross=False) for _ in range(cfg.encoder_layers))
        self.decoder = nn.ModuleList(layer(cross=True) for _ in range(cfg.decoder_layers))
        self.encoder_norm, self.decoder_norm = LayerNorm(d), LayerNorm(d)
        self.generator = nn.Linear(d, cfg.target_vocabulary)
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.xavier_uniform_(p)

    def encode(self, source: Int[Tensor, "b s"], mask: Bool[Tensor, "b 1 s"]) -> Float[Tensor, "b s d"]:
        x = self.source(source)
        for layer in self.encoder:
            x = layer(x, mask)
        return self.encoder_norm(x)

    def decode(
        self,
        memory: Float[Tensor, "b s d"],
        memory_mask: Bool[Tensor, "b 1 s"],
        target: Int[Tensor, "b t"],
        mask: Bool[Tensor, "b t t"],
    ) -> Float[Tensor, "b t d"]:
        x = self.target(target)
        for layer in self.decoder:
            x = layer(x, mask, memory, memory_mask)
        return self.decoder_norm(x)

    def generate(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... v"]:
        return self.generator(x).log_softmax(dim=-1)


class Padded(NamedTuple):
    """Sentence pairs padded to the longest, with their masks (True: may attend)."""

    source: Int[Tensor, "b s"]
    source_mask: Bool[Tensor, "b 1 s"]
    target_in: Int[Tensor, "b t"]
    target_out: Int[Tensor, "b t"]
    target_mask: Bool[Tensor, "b t t"]


def causal(t: int, device: torch.device | str) -> Bool[Tensor, "1 t t"]:
    return torch.ones(1, t, t, dtype=torch.bool, device=device).tril()


def pad(tokens: Tokens, chosen: list[int], device: torch.device | str) -> Padded:
    """The chosen pairs as one batch. The targets get start and end tokens; the sources have their end token."""

    def rows(sentences: list[list[int]]) -> Int[Tensor, "b s"]:
        width = max(len(s) for s in sentences)
        return torch.tensor([s + [PAD] * (width - len(s)) for s in sentences], device=device)

    source = rows([tokens.source[i] for i in chosen])
    target = rows([[START, *tokens.target[i], END] for i in chosen])
    target_in, target_out = target[:, :-1], target[:, 1:]
    mask = (target_in != PAD)[:, None] & causal(target_in.shape[1], device)
    return Padded(source, (source != PAD)[:, None], target_in, target_out, mask)


def batches(tokens: Tokens, size: int = 128) -> list[list[int]]:
    """Pair numbers sorted by English length, cut into batches."""
    order = sorted(range(len(tokens.source)), key=lambda i: len(tokens.source[i]))
    return [order[i : i + size] for i in range(0, len(order), size)]


def smoothed_loss(logp: Float[Tensor, "n v"], labels: Int[Tensor, " n"], smoothing: float = 0.1) -> Float[Tensor, ""]:
    """Sum over tokens of KL(smoothed labels || model): `smoothing` is spread over all words but padding and the right
    one."""
    wanted = torch.full_like(logp, smoothing / (logp.shape[1] - 2))
    wanted.scatter_(1, labels[:, None], 1 - smoothing)
    wanted[:, PAD] = 0
    wanted = wanted.masked_fill((labels == PAD)[:, None], 0.0)
    return nn.functional.kl_div(logp, wanted, reduction="sum")


class Trainer:
    """Adam with the Noam schedule (factor 1), no clipping."""

    def __init__(self, model: Book, warmup: int = 2000) -> None:
        self.model, d = model, model.generator.in_features
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1.0, betas=(0.9, 0.98), eps=1e-9)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, partial(noam, d, warmup))

    def step(self, batch: Padded) -> Float[Tensor, ""]:
        """One update; the loss before it, in nats per target token that is not padding."""
        memory = self.model.encode(batch.source, batch.source_mask)
        x = self.model.decode(memory, batch.source_mask, batch.target_in, batch.target_mask)
        logp, labels = self.model.generate(x).flatten(0, 1), batch.target_out.flatten()
        loss = smoothed_loss(logp, labels) / (labels != PAD).sum()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        return loss.detach()


@torch.no_grad()
def translate(model: Book, source: list[int], wanted: int | None = None) -> list[int]:
    """Greedy translation of one sentence: up to the end token or MAX_TOKENS, or exactly `wanted` tokens."""
    device = model.generator.weight.device
    ids = torch.tensor([source], device=device)
    mask = (ids != PAD)[:, None]
    memory = model.encode(ids, mask)
    out = torch.full((1, 1), START, device=device)
    for _ in range(wanted or MAX_TOKENS):
        x = model.decode(memory, mask, out, causal(out.shape[1], device))
        word = model.generate(x[:, -1]).argmax(dim=-1, keepdim=True)
        out = torch.cat([out, word], dim=1)
        ended = word.item() == END
        if ended and wanted is None:
            break
    return out[0, 1:].tolist()


Wanted: TypeAlias = tuple[list[int], int]  # a source, and how many tokens to make of it


def one_by_one(model: Book, sentences: list[Wanted]) -> list[list[int]]:
    """The book's way through sentences with forced lengths."""
    return [translate(model, source, n) for source, n in sentences]


@torch.no_grad()
def all_at_once(params: Tree, sentences: list[Wanted], cfg: seq2seq.Config, longest: int) -> list[list[int]]:
    """Our way through the same (`lib.seq2seq.Translator`, which sorts by length as well): in batches with caches, each
    batch until its longest sentence is done."""
    out = []
    for chunk in (sentences[i : i + 128] for i in range(0, len(sentences), 128)):
        source = seq2seq.one_a_row([s for s, _ in chunk], params["embed"]["source"].device)
        most = max(n for _, n in chunk)
        room = max(most, min(longest, 2 * source.ids.shape[1] + 8))
        step, cache = seq2seq.start(params, source, 1, room, cfg=cfg)
        first = torch.full((len(chunk),), START, device=source.ids.device)
        ids = decode.generate(step, cache, first, most, end=-1).tolist()
        out += [row[:n] for row, (_, n) in zip(ids, chunk, strict=True)]
    return out
