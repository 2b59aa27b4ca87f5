"""Cached generation, greedy, by SmolLM2-135M-Instruct: ours against transformers' generate, with the same weights."""

import itertools
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from lib import random, tree
from lib.models import gpt, smollm
from tests.bench import measure

THEIRS, OURS = "transformers", {"ours, eager": False, "ours, compiled": True}
HEAD = ["batch", "prompt + new tokens", "peer", "tokens / s, median (min-max)", "times transformers'", "first token, s"]
HEAD += ["ms, tenth token", "ms, last token", "same tokens", "first call, s"]
NEAR = 8  # tokens around the tenth, and at the end, whose median time is told


class Case(NamedTuple):
    rows: int
    prompt: int
    new: int


CASES = [Case(1, 32, 64), Case(32, 32, 64), Case(1, 1024, 256)]
Made = tuple[Int[Tensor, "b new"], list[float]]  # and the seconds after which each token of all rows was there
Work = Callable[[Int[Tensor, "b t"], int], Made]


def theirs(model: smollm.Released, device: torch.device, dtype: torch.dtype) -> Work:
    """transformers' model of the same weights, with its own defaults."""
    import transformers  # loads for seconds

    transformers.logging.set_verbosity_error()
    cfg, block = model.cfg, model.cfg.block
    shape = {
        "vocab_size": cfg.vocabulary, "max_position_embeddings": cfg.context, "num_hidden_layers": cfg.layers,
        "hidden_size": block.width, "intermediate_size": block.ff, "num_attention_heads": block.heads,
        "num_key_value_heads": block.kv_heads, "rms_norm_eps": block.eps, "rope_theta": block.rotary_base,
        "tie_word_embeddings": cfg.head == "tied",
    }  # fmt: skip
    module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
    module.load_state_dict(smollm.to_theirs(model.params, smollm.HUB, cfg), strict=False)  # a tied head is one tensor
    module.to(device, dtype).eval()

    def work(ids: Int[Tensor, "b t"], n: int) -> Made:
        clock = Clock(device)
        end = {"max_new_tokens": n, "min_new_tokens": n, "eos_token_id": None, "pad_token_id": 0}
        out = module.generate(ids, do_sample=False, stopping_criteria=[clock], **end)
        return out[:, ids.shape[1] :], clock.seconds

    return work


class Clock:
    """The seconds since it was made at each call, which transformers makes after each token."""

    def __init__(self, device: torch.device) -> None:
        self.began, self.device, self.seconds = time.perf_counter(), device, list[float]()

    def __call__(self, ids: Tensor, *rest: object) -> Tensor:
        measure.wait(None, self.device)
        self.seconds.append(time.perf_counter() - self.began)
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)


def ours(model: smollm.Released, compiled: bool, device: torch.device, dtype: torch.dtype) -> Work:
    params = tree.map(lambda x: x.to(device, dtype), model.params)

    def work(ids: Int[Tensor, "b t"], n: int) -> Made:
        clock, out = Clock(device), []
        made = gpt.generate(params, ids, cfg=model.cfg, room=n, compiled=compiled)
        for _, token in zip(range(n), made, strict=False):
            out.append(token)
            clock(ids)
        return torch.stack(out, dim=1), clock.seconds

    return work


@torch.no_grad()
def rows(
    model: smollm.Released, cases: list[Case], compile: bool, rounds: int, device: torch.device, dtype: torch.dtype
) -> list[list[str]]:
    """The cells under HEAD. The peers take turns; the first call of each does not count."""
    works = {THEIRS: theirs(model, device, dtype)}
    works |= {name: ours(model, graph, device, dtype) for name, graph in OURS.items() if compile or not graph}
    cells = []
    for case in cases:
        shape = case.rows, case.prompt
        ids = random.randint(random.key(case.rows, device), shape, 0, model.cfg.vocabulary).long()
        firsts = {name: work(ids, case.new) for name, work in works.items()}
        found: dict[str, list[list[float]]] = {name: [] for name in works}
        for _ in range(rounds):
            for name, work in works.items():
                time.sleep(measure.PAUSE)
                found[name].append(work(ids, case.new)[1])
        rates = {name: [case.rows * case.new / seconds[-1] for seconds in each] for name, each in found.items()}
        for name, each in found.items():
            costs = [[b - a for a, b in itertools.pairwise(s)] for s in each]
            near = lambda place, costs=costs: median(x for c in costs for x in c[place])  # noqa: E731
            same = (firsts[name][0] == firsts[THEIRS][0]).float().mean()
            cells.append([
                str(case.rows), f"{case.prompt} + {case.new}", name, measure.times(rates[name]),
                f"{measure.ratio(rates[name], rates[THEIRS]):.3g}", f"{median(s[0] for s in each):.3g}",
                f"{1000 * near(slice(9 - NEAR // 2, 9 + NEAR // 2)):.3g}", f"{1000 * near(slice(-NEAR, None)):.3g}",
                f"{100 * same:.0f} %", f"{firsts[name][1][-1]:.1f}",
            ])  # fmt: skip
    return cells
