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

RUNS = Path("runs")


@dataclass(frozen=True)
class Args:
    """Flags that mean the same in every experiment."""

    steps: int = 1000
    """Updates of the optimiser. The learning-rate schedule ends with the last one."""
    seed: int = 0
    """Number that decides every random number of the run."""
    replicas: int = 1
    """Seeds to train side by side in one vmapped step: this one and the next."""
    sweep: tuple[str, ...] = ()
    """Fields to vary along the same axis, such as lr=1e-4,3e-4,1e-3; several are crossed."""
    keep: Literal["all", "best"] = "all"
    """What stays of several replicas: all, or the one that did best on held-out data, as if it were the only one."""
    shard_optimizer: bool = False
    """Whether each process of run-multi keeps only its part of the optimiser's state."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto is the GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the forward and backward pass; parameters stay fp32. auto is bf16 where the hardware has it."""
    deterministic: bool = False
    """Whether a GPU uses only kernels that give the same bits every time, which are slower."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether the step is compiled: on, before the first step; auto, where a run is long enough to earn the time back,
    on a CPU beside the first steps."""
    data: str = "default"
    """Name of a data set, or a path."""
    data_dir: Path | None = None
    """Where to look for data files before downloading them."""
    run: Path | None = None
    """Run directory; a new one under runs/ if not given."""
    resume: bool = False
    """Continue the run given by --run, or the latest one, with its own configuration."""
    log_every: int = 20
    """Steps between log entries."""
    eval_every: int = 250
    """Steps between evaluations on held-out data."""
    save_every: int = 500
    """Steps between checkpoints."""
    diagnose: int = 0
    """Steps between diagnoses: per-example gradients, gradient noise, curvature, sizes of updates; 0: none."""


# A resumed run may change these: they do not enter the function that is trained (but for the end of the schedule).
FREE_FIELDS = {
    "steps", "shard_optimizer", "device", "deterministic", "compile", "data_dir", "run", "resume", "log_every",
    "eval_every", "save_every", "diagnose",
}  # fmt: skip


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


def config(args: Args) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(args).items()}


def load_config(path: Path, kind: type) -> Any:
    """The dataclass `kind` from a run's config.json. Raises RunError."""
    try:
        stored = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is not a run directory: {error}") from error
    try:
        return fields.from_json(kind, dict(stored))
    except (TypeError, ValueError) as error:
        raise RunError(f"{path} is a run of another experiment or version: {error}") from error


def changed_fields(stored: Args, wanted: Args) -> list[str]:
    """`name: old -> new` of every field that a resumed run may not change."""
    pairs = [(f.name, getattr(stored, f.name), getattr(wanted, f.name)) for f in dataclasses.fields(stored)]
    return [f"{name}: {old} -> {new}" for name, old, new in pairs if old != new and name not in FREE_FIELDS]


def runs(experiment: str, finished: bool = False) -> list[Path]:
    """The run directories of an experiment, the newest last; `finished`: those that have a result."""
    found = sorted((RUNS / experiment).glob("*/config.json"), key=lambda p: p.stat().st_mtime)
    return [p.parent for p in found if not finished or (p.parent / "result.json").exists()]


def latest_run(experiment: str, finished: bool = False) -> Path:
    """The newest of `runs`. Raises RunError where there is none."""
    if found := runs(experiment, finished):
        return found[-1]
    kind = "finished run" if finished else "run"
    raise RunError(f"no {kind} of {experiment} under {RUNS}/: make one with `just run {experiment}`, or give --run")
