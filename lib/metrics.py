"""Translation scores, throughput and model FLOPs utilisation."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sacrebleu.metrics import BLEU, CHRF
from torch import Tensor


def bleu_chrf(translations: list[str], references: list[list[str]]) -> dict[str, Any]:
    """Corpus BLEU (Papineni et al. 2002) and chrF (Popovic 2015) against all references of each sentence, with
    sacrebleu's signatures. `references[i]` are the references of `translations[i]`, one at least."""
    width = max(len(r) for r in references)
    columns: list = [[r[j] if j < len(r) else None for r in references] for j in range(width)]
    bleu, chrf = BLEU(), CHRF()
    return {
        "bleu": bleu.corpus_score(translations, columns).score,
        "chrf": chrf.corpus_score(translations, columns).score,
        "bleu_signature": str(bleu.get_signature()),
        "chrf_signature": str(chrf.get_signature()),
    }


# Dense peak in FLOP/s without sparsity, (bf16, fp32 as torch computes it by default), from the vendors' data sheets.
_PEAKS = {
    "H200": (989e12, 67e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L4": (121e12, 30e12),
    "RTX 4090": (165e12, 83e12),
    "RTX 3090": (71e12, 36e12),
}


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """The device's peak in FLOP/s for matrix products in `dtype`; None where it is not known, as on CPUs."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    found = [peaks for part, peaks in _PEAKS.items() if part in name]
    return found[0][0 if dtype == torch.bfloat16 else 1] if found else None


class Throughput:
    """Tokens per second and model FLOPs utilisation between two readings, without the first step, which compiles."""

    def __init__(self, flops_per_token: int, peak: float | None) -> None:
        self.flops, self.peak = flops_per_token, peak
        self.first = 0.0  # seconds of the first step
        self.tokens, self.since = 0, time.perf_counter()

    def count(self, tokens: int, wait_for: Tensor) -> None:
        """Count a step's useful tokens; `wait_for` is a result of the step, waited for in the first one only."""
        self.tokens += tokens
        if not self.first:
            wait_for.item()
            self.first = time.perf_counter() - self.since
            self.tokens, self.since = 0, time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self.since += time.perf_counter() - before

    def read(self) -> dict[str, float]:
        """Since the last reading: tokens per second and, where the device's peak is known, the share of it used."""
        if not self.tokens:
            return {}
        rate = self.tokens / (time.perf_counter() - self.since)
        self.tokens, self.since = 0, time.perf_counter()
        mfu = {"perf/mfu": rate * self.flops / self.peak} if self.peak else {}
        return {"perf/tokens_per_second": rate} | mfu
