"""SmolLM2-135M with adapters (LoRA) as a router: the tools' names are the only words that it may answer with.

python -m tests.bench.tuned [--steps 120] prints how many of the 323 requests go to the right tool.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import trange

from experiments import exp_assistant as exp
from lib import lora, optim, random
from lib.data import tokens
from lib.data.requests import TOOLS
from lib.models import gpt, smollm
from lib.models.smollm import Released
from lib.transform import value_and_grad
from lib.tree import Tree

ADAPTED, SCALE = r"attn\.w_[qv]$", 2.0
LONGEST = 120  # characters of a request that are read


@dataclass(frozen=True)
class Args:
    steps: int = 120
    rows: int = 8
    rank: int = 8
    lr: float = 2e-3
    seed: int = 0
    data_dir: Path | None = None


def rows(model: Released, texts: Sequence[str]) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b"]]:
    """(tokens, padded behind; the place of the last one) of prompts."""
    found = tokens.encode(model.tokenizer, [f"Request: {text[:LONGEST]}\nTool:" for text in texts])
    ids = torch.zeros(len(found), max(map(len, found)), dtype=torch.int64)
    for i, row in enumerate(found):
        ids[i, : len(row)] = torch.tensor(row)
    return ids, torch.tensor([len(row) - 1 for row in found])


def names(model: Released) -> Int[Tensor, "k"]:
    """The first token of each tool's name; they differ, so that no other one is needed."""
    found = [tokens.encode(model.tokenizer, [f" {name}"])[0][0] for name in TOOLS]
    assert len(set(found)) == len(found)
    return torch.tensor(found)


def logits(
    adapters: Tree, ids: Int[Tensor, "b t"], last: Int[Tensor, "b"], *, model: Released, first: Tensor
) -> Float[Tensor, "b k"]:
    params = lora.merged(model.params, adapters, SCALE)
    x = gpt.features(params, ids, cfg=model.cfg)[0][torch.arange(len(ids)), last]
    return (x @ gpt.head(params)[first].T).float()


def main(args: Args) -> None:
    model = smollm.load("default", args.data_dir)
    made, _, held = exp.corpora(exp.Args(requests=args.steps * args.rows))
    first, labels = names(model), {name: i for i, name in enumerate(TOOLS)}
    k_lora, k_order = random.split(random.key(args.seed))
    adapters = lora.init(k_lora, model.params, ADAPTED, args.rank)
    adam = optim.adamw(optim.linear(args.lr, args.steps, args.steps // 10))
    state = adam.init(adapters)

    def loss(adapters: Tree, ids: Tensor, last: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(logits(adapters, ids, last, model=model, first=first), label)

    order = random.permutation(k_order, len(made)).tolist()
    for n in (bar := trange(len(made) // args.rows)):
        batch = [made[i] for i in order[n * args.rows : (n + 1) * args.rows]]
        ids, last = rows(model, [one.text for one in batch])
        value, grads = value_and_grad(loss)(adapters, ids, last, torch.tensor([labels[one.tool] for one in batch]))
        adapters, state = adam.update(grads, state, adapters)
        bar.set_postfix(loss=f"{float(value):.3f}")
    use = torch.no_grad()(partial(logits, adapters, model=model, first=first))
    right = 0
    for i in range(0, len(held), 16):
        part = held[i : i + 16]
        guess = use(*rows(model, [one.text for one in part])).argmax(-1).tolist()
        right += sum(a == labels[one.tool] for a, one in zip(guess, part, strict=True))
    share = 100 * right / len(held)
    print(f"{share:.1f} % of {len(held)} requests by SmolLM2, rank {args.rank}, after {len(made)} requests")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
