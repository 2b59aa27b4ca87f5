"""What a user chooses: the flags of every experiment, what they mean on this machine, and what a run stored of them."""

import dataclasses
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lib.faults import RunError
from lib.run import fields
from lib.run.fields import Count, Free, Natural, Seed


@dataclass(frozen=True)
class Args:
    """Flags that mean the same in every experiment. A resumed run may change what is `Free`: it does not enter the
    function that is trained (but for the end of the schedule)."""

    steps: Free[Natural] = 1000
    """Updates of the optimiser. The learning-rate schedule ends with the last one."""
    seed: Seed = 0
    """Number that decides every random number of the run."""
    replicas: Count = 1
    """Seeds to train side by side in one vmapped step: this one and the next."""
    sweep: tuple[str, ...] = ()
    """Fields to vary along the same axis, such as lr=1e-4,3e-4,1e-3; several are crossed."""
    keep: Literal["all", "best"] = "all"
    """What stays of several replicas: all, or the one that did best on held-out data, as if it were the only one."""
    shard_optimizer: Free[bool] = False
    """Whether each process of run-multi keeps only its part of the optimiser's state."""
    device: Free[Literal["auto", "cpu", "cuda"]] = "auto"
    """Where to compute; auto is the GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the forward and backward pass; parameters stay fp32. auto is bf16 where the hardware has it."""
    deterministic: Free[bool] = False
    """Whether a GPU uses only kernels that give the same bits every time, which are slower."""
    compile: Free[Literal["auto", "on", "off"]] = "auto"
    """Whether the step is compiled: on, before the first step; auto, where a run is long enough to earn the time back,
    on a CPU beside the first steps."""
    data: str = "default"
    """Name of a data set, or a path."""
    data_dir: Free[Path | None] = None
    """Where to look for data files before downloading them."""
    run: Free[Path | None] = None
    """Run directory; a new one under runs/ if not given."""
    resume: Free[bool] = False
    """Continue the run given by --run, or the latest one, with its own configuration."""
    log_every: Free[Natural] = 20
    """Steps between log entries."""
    eval_every: Free[Natural] = 250
    """Steps between evaluations on held-out data."""
    save_every: Free[Natural] = 500
    """Steps between checkpoints."""
    diagnose: Free[Natural] = 0
    """Steps between diagnoses: per-example gradients, gradient noise, curvature, sizes of updates; 0: none."""

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be."""
        fields.check(self)
        if not self.data:
            raise ValueError("--data is empty: it is the name of a data set, or a path")


def device(args: Args) -> torch.device:
    """Where to compute. Says to torch how a GPU is to do it: fp32 as fp32, where cuDNN's convolutions would round to
    TF32, and the fastest of cuDNN's algorithms, unless args are `deterministic`."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if args.deterministic:  # for good: what else a run loads, by Args of its own, does not undo it
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise RunError("--device cuda: torch finds no CUDA device here")
    if args.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def dtype(args: Args, device: torch.device) -> torch.dtype:
    """auto: bf16 on GPUs from Ampere on and on CPUs with AVX-512 BF16 or AMX, where it was 2 to 5 times as fast as
    fp32 (LOG.md); emulated bf16 is slower."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if args.precision == "bf16" or (args.precision == "auto" and fast) else torch.float32


def compiles(args: Args) -> bool:
    """auto: where there is a compiler, which torch.compile needs (of C++, or for a GPU of C), for runs of 500 steps and
    more: a cold compilation costs as much as some 400 steps gain on two cores (LOG.md)."""
    if args.compile != "auto":
        return args.compile == "on"
    language, names = "C++", [os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl"]
    if device(args).type == "cuda":
        language, names = "C", [os.environ.get("CC", ""), "gcc", "clang", "cc", "cl"]
    if not any(shutil.which(name) for name in names if name):
        told = f"no {language} compiler found, so torch.compile is off: steps take twice as long or more"
        print(told, file=sys.stderr)
        return False
    return args.steps >= 500


def located(args: Any) -> Any:
    """Paths of data and weights made whole, so that the run finds them from another folder too: all but --run, and a
    name that may be a path if it has a folder or an ending in it and is there."""
    whole = lambda x: type(x)(os.path.abspath(x))  # noqa: E731
    values = {f.name: getattr(args, f.name) for f in dataclasses.fields(args) if f.name != "run"}
    paths = {name: whole(x) for name, x in values.items() if isinstance(x, Path)}
    texts = {name: x for name, x in values.items() if isinstance(x, str) and (Path(x).name != x or Path(x).suffix)}
    return dataclasses.replace(args, **paths, **{name: whole(x) for name, x in texts.items() if os.path.exists(x)})


def config(args: Args) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(args).items()}


def load_config(path: Path, kind: type) -> Any:
    """The dataclass `kind` from a run's config.json. What a run made by older code has not stored gets its default,
    which is told. Raises RunError."""
    try:
        stored = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is not a run directory: {error}") from error
    try:
        found = fields.from_json(kind, dict(stored))
    except (TypeError, ValueError) as error:
        raise RunError(f"{path} is a run of another experiment or version: {error}") from error
    added = [f"{f.name} {getattr(found, f.name)}" for f in dataclasses.fields(kind) if f.name not in stored]
    if added:
        print(f"{path} was made before these fields were there; it is taken with {', '.join(added)}", file=sys.stderr)
    return found


def changed_fields(stored: Args, wanted: Args) -> list[str]:
    """`name: old -> new` of every field that a resumed run may not change."""
    free = fields.free(type(stored))
    pairs = [(f.name, getattr(stored, f.name), getattr(wanted, f.name)) for f in dataclasses.fields(stored)]
    return [f"{name}: {old} -> {new}" for name, old, new in pairs if old != new and name not in free]
