"""Ten minutes of a GPU that tell everything: `just gpu`.

In order of value, each stage in a process of its own, each result a JSON line of OUT/gpu.jsonl at once and a table at
the end: what the machine gives (ceilings); whether the numbers are a CPU's (draws, steps, and the experiments' own
tests with `--device cuda`); GPT-2-124M and the translator, compiled, with and without a CUDA graph, beside the usual
nn.Module with fused AdamW; attention alone; the bench's other steps; replicas at once beside one after another; and all
the while exp_transformer_fr `best` on tatoeba and exp_gpt_hemingway `best`, trained as a user would.

What is timed has the GPU to itself: it holds an exclusive lock from its first kernel on. Tests share the lock;
compilation, on the CPU, needs none. Trainings stand still while something is timed. `--dry` does it at tiny sizes on a
CPU, in one process (the steps of the faces have no tiny size and are left out). Nothing is downloaded where
`--data-dir` holds tatoeba's fra-eng.zip and Hemingway's novels.
"""

import json
import os
import runpy
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import tyro
from torch.nn.attention import SDPBackend, sdpa_kernel

from experiments import exp_gan_curve, exp_gpt_hemingway, exp_transformer_fr
from lib import machine, random, run, transform, transformer, tree
from lib.cudagraph import WARM, Graphed
from lib.data import packing, tokens
from lib.models import gpt, seq2seq
from lib.run import replicas
from tests.bench import faces, gans, language, measure, modules, turns
from tests.bench.turns import STAGE, Child, Turn, emit, failed, wait

ROUNDS = 5
BEST = {"vocabulary": 50_257, "layers": 12, "width": 768, "heads": 12, "ff": 3072, "length": 1024, "rows": 32}  # GPT-2
TINY = {"vocabulary": 300, "layers": 1, "width": 32, "heads": 2, "ff": 48, "length": 16, "rows": 4}
GPT2_PEERS = {"ours": None, "ours, tuned": {**transform.INDUCTOR, "coordinate_descent_tuning": True}}
WRITTEN_OUT = "ours, draws written out"
REDUCED = "nn.Module, reduce-overhead"
STEPS = {**gans.STEPS, **faces.STEPS, **language.STEPS}
BENCHED = ["exp_gan_fashion", "exp_gan_curve", "exp_dcgan_faces", "exp_cgan_glasses, critic", "exp_lstm_novel"]
SDPA = {
    "flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH,
}  # fmt: skip


@dataclass(frozen=True)
class Gpu(turns.Flags):
    """Measure everything worth knowing on one GPU."""

    only: tuple[str, ...] = ()
    """Stages, or how they begin: ceilings, draws, steps, tests, "gpt2 ours 50257", translation, attention, bench,
    replicas, train. All if none."""
    translator: Literal["best", "small"] = "best"
    """The preset of exp_transformer_fr that is trained."""
    translator_steps: int = 6_000
    novel_steps: int = 700
    results: Path | None = None
    """A Markdown file into which the table goes, between its markers."""

    def __post_init__(self) -> None:
        if unknown := {name.split()[0] for name in self.only} - set(STAGES):
            raise ValueError(f"--only {' '.join(sorted(unknown))}: no such stage; there are {', '.join(STAGES)}")

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.dry else torch.device("cuda", 0)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.dry else torch.bfloat16

    @property
    def warm(self) -> int:
        """Steps before those that are timed: they compile, and make CUDA graphs."""
        return 1 if self.dry else WARM + 3


@contextmanager
def usual(how: Turn | str) -> Iterator[None]:
    """Inside, torch.compile of an nn.Module waits for its turn, or has a mode of torch's. Not in a dry run."""
    real = torch.compile
    words = {"mode": how} if isinstance(how, str) else {"backend": how.backend()}

    def chosen(fn: Any, **given: Any) -> Any:
        if isinstance(fn, torch.nn.Module):
            return fn if isinstance(how, Turn) and how.dry else real(fn, **words)
        return real(fn, **given)

    torch.compile = chosen  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = real


def ours(args: Gpu, turn: Turn, step: Callable, options: dict | None = None) -> Callable:
    """Our compiled and donated step, without a CUDA graph."""
    backend: Any = turn.backend(options or transform.INDUCTOR)
    return transform.jit(step, enabled=not args.dry, backend=backend, graphed=False)


def graphed(update: Callable) -> Callable:
    """The same as one CUDA graph, without compiling anew."""
    run = Graphed(lambda state, *batch: update(state, *batch)[1])
    return lambda state, *batch: (state, run(state, *batch))


def timed(args: Gpu, fn: Callable[[], Any], n: int) -> list[float]:
    """Milliseconds of a call, by rounds of n calls each: median, least and most."""
    n, rounds = (1, 1) if args.dry else (n, ROUNDS)
    found = [measure.timed(lambda: [fn() for _ in range(n)], args.device) / n * 1e3 for _ in range(rounds)]
    return [round(x, 4) for x in (statistics.median(found), min(found), max(found))]


def memory(args: Gpu) -> float | None:
    """GiB that torch had allocated at most since the last call. What a CUDA graph holds is not among it."""
    if args.dry:
        return None
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 2)


def kernels(args: Gpu, fn: Callable[[], Any], n: int = 3, most: int = 25) -> dict[str, Any]:
    """The kernels of a step by time: [name, calls, microseconds], how many they are, and their sum."""
    from torch.profiler import ProfilerActivity, profile

    if args.dry:
        return {}
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(n):
            fn()
        torch.cuda.synchronize()
    rows: dict[str, tuple[int, float]] = {}
    for event in found.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            calls, total = rows.get(event.name, (0, 0.0))
            rows[event.name] = calls + 1, total + event.device_time_total
    ordered = sorted(rows.items(), key=lambda item: -item[1][1])[:most]
    return {
        "kernels": [[name[:80], round(calls / n, 1), round(total / n)] for name, (calls, total) in ordered],
        "count": round(sum(calls for calls, _ in rows.values()) / n),
        "us": round(sum(total for _, total in rows.values()) / n),
    }


def report(args: Gpu, stage: str, step: Callable[[int], Any], tokens: int, n: int, flops: int = 0, **more: Any) -> None:
    """What a training step costs, `step(i)` for the numbers i from 0: a line, and one of its kernels. `tokens` of a
    step, and `flops` of a token where the share of the peak is wanted."""
    numbers = iter(range(1 << 30))
    for _ in range(args.warm):
        step(next(numbers))
    memory(args)
    ms = timed(args, lambda: step(next(numbers)), n)
    rate = tokens / ms[0] * 1e3
    if flops and (peak := machine.peak_flops(args.device, args.dtype)):
        more["mfu"] = round(rate * flops / peak, 4)
    gib = None if "graph" in more["peer"] else memory(args)
    emit(args, stage, ms=ms, tokens_per_second=round(rate), gib=gib, **more)
    emit(args, f"{stage}.kernels", **more, **kernels(args, lambda: step(next(numbers))))


# ---- what the machine gives ----


def ceilings(args: Gpu) -> None:
    device = args.device
    facts: dict[str, Any] = {"torch": torch.__version__, "python": sys.version.split()[0], "cpus": os.cpu_count()}
    if not args.dry:
        p = torch.cuda.get_device_properties(0)
        facts |= {"gpu": p.name, "gib": round(p.total_memory / 2**30, 1), "sms": p.multi_processor_count}
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    emit(args, "environment", **facts, commit=git)
    Turn(args).take()
    n = 64 if args.dry else 8192
    kinds = ("bf16", torch.bfloat16, False), ("fp32", torch.float32, False), ("tf32", torch.float32, True)
    for name, dtype, tf32 in kinds:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        measure.timed(lambda: a @ b, device)  # noqa: B023
        ms = timed(args, lambda: a @ b, 10 if name == "bf16" else 2)  # noqa: B023
        emit(args, "ceilings", product=name, n=n, ms=ms, tflops=round(2 * n**3 / ms[0] / 1e9, 1))
    torch.backends.cuda.matmul.allow_tf32 = False
    x = torch.randn((1 << 12) if args.dry else (1 << 30), device=device)
    y = torch.empty_like(x)
    ms = timed(args, lambda: y.copy_(x), 5)
    emit(args, "ceilings", copy_gib=x.nbytes / 2**30, ms=ms, tb_per_second=round(2 * x.nbytes / ms[0] / 1e9, 2))


# ---- the numbers of a CPU ----


def draws(args: Gpu) -> None:
    """Whether a key gives on the GPU what it gives on a CPU, eager, compiled and vmapped."""
    Turn(args, exclusive=False).take()
    key = random.key(2**40 + 7)
    verbs: dict[str, Callable] = {
        "bits": lambda k: random.bits(k, (1000, 7)),
        "uniform": lambda k: random.uniform(k, (10_000,), -3, 5),
        "bernoulli": lambda k: random.bernoulli(k, 0.3, (10_000,)),
        "split": lambda k: torch.stack(random.split(k, 9)),
        "fold_in": lambda k: random.fold_in(k, 5),
        "randint": lambda k: random.randint(k, (10_000,), -5, 1000),
        "permutation": lambda k: random.permutation(k, 5000),
        "normal": lambda k: random.normal(k, (100_000,)),
        "gumbel": lambda k: random.gumbel(k, (100_000,)),
    }
    for name, draw in verbs.items():
        keys = torch.stack(random.split(key, 3))
        expected = torch.stack([draw(k) for k in keys])
        ways = {"eager": lambda ks, draw=draw: torch.stack([draw(k) for k in ks]), "vmap": torch.func.vmap(draw)}
        if not args.dry:
            torch._dynamo.reset()  # these share a line of code, and dynamo compiles eight versions of one at most
            ways |= {f"compiled {way}": torch.compile(fn, fullgraph=True) for way, fn in list(ways.items())}
        found = {}
        for way, fn in ways.items():
            try:
                mine = fn(keys.to(args.device)).cpu()
                wrong = int((mine != expected).sum())
                far = float((mine.double() - expected.double()).abs().max())
                found[way] = "equal" if not wrong else f"{wrong} of {mine.numel()} differ, by {far:.2g} at most"
            except Exception as error:
                found[way] = f"{type(error).__name__}: {str(error)[:200]}"
        emit(args, "draws", name=name, **found)


def steps(args: Gpu) -> None:
    """Six steps of the translator and of the GPT: how far the GPU's are from the CPU's, and whether they are the same
    bits twice: eager, in one CUDA graph, and that with deterministic kernels."""
    Turn(args, exclusive=False).take()
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # what cuBLAS needs to be deterministic
    torch.backends.cudnn.allow_tf32 = False
    size = {"width": 64, "heads": 4, "ff": 128, "rows": 8, "dropout": 0.1, "steps": 100}
    words: dict = {"encoder_layers": 2, "decoder_layers": 2, "vocabulary": 500, "position": "rotary", **size}
    one = exp_transformer_fr.Args(**words)
    two = exp_gpt_hemingway.Args(layers=2, length=64, **size)  # type: ignore[arg-type]
    block = transformer.Config(
        width=64, heads=4, ff=128, dropout=0.1, norm="rms", activation="swiglu", position="rotary", bias="none"
    )
    configs = translation_config(one), gpt.Config(500, 64, 2, block, "tied")
    data = packed(one, 1)[0], random.randint(random.key(1), (8, 65), 0, 500).long()
    of = (exp_transformer_fr, one), (exp_gpt_hemingway, two)
    for name, (exp, model), cfg, batch in zip(("translation", "gpt, muon"), of, configs, data, strict=True):
        step = partial(exp.step, cfg=cfg, args=model, dtype=torch.float32)  # type: ignore[attr-defined]

        def after(update: Callable, device: torch.device) -> torch.Tensor:
            state = exp.init_state(random.key(3, device), cfg, model)  # type: ignore[attr-defined] # noqa: B023
            for _ in range(6):
                state, _ = update(state, tree.to(batch, device))  # noqa: B023
            return torch.cat([x.double().cpu().flatten() for x in tree.leaves(state.params)])

        host = after(step, torch.device("cpu"))
        ways = {"eager": step}
        if not args.dry:
            ways |= {way: transform.jit(step) for way in ("one CUDA graph", "one CUDA graph, deterministic")}
        for way, update in ways.items():
            torch.use_deterministic_algorithms("deterministic" in way)
            first, again = (after(update, args.device) for _ in range(2))
            apart = [float((first - other).norm() / host.norm()) for other in (host, again)]
            emit(args, "steps", case=name, way=way, from_cpu=apart[0], twice=apart[1])
    torch.use_deterministic_algorithms(False)


def experiments(args: Gpu, limit: str) -> None:
    """The experiments' own tests: each trains, is resumed and is used, on the GPU."""
    Turn(args, exclusive=False).take()
    words = ["-m", "pytest", "-q", "--no-header", "--tb=short", "-rfE", "--color=no"]
    words += ["-n", "0", "tests/test_cudagraph.py"] if args.dry else ["--device", "cuda", "-n", "7"]
    words += [] if args.dry else ["--maxprocesses", "7"]
    with open(args.out / "tests.txt", "w") as log:
        process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log, start_new_session=True)
        try:
            process.wait(float(limit))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    said = (args.out / "tests.txt").read_text().strip().splitlines()
    bad = [line[:300] for line in said if line.startswith(("FAILED", "ERROR"))]
    emit(args, "tests", rc=process.returncode, last=said[-1:], failed=bad[:30])


# ---- the steps that matter ----


def packed(model: exp_transformer_fr.Args, n: int) -> list[packing.Batch]:
    """n packed batches of made-up sentences of 4 to 16 tokens, as most of tatoeba's."""

    def sentences(step: int) -> list[list[int]]:
        lengths = [min(4 + step * i % 13, model.length - 1) for i in range(n * model.rows * model.length // 6)]
        return [[3 + (31 * i + 17 * j) % (model.vocabulary - 3) for j in range(m)] for i, m in enumerate(lengths)]

    corpus = packing.Tokens(sentences(7), sentences(5))
    rows = packing.pack(corpus, list(range(len(corpus.source))), model.length)
    parts = [rows[i * model.rows : (i + 1) * model.rows] for i in range(n)]
    return [packing.collate(corpus, part, model.length, tokens.START, tokens.END) for part in parts]


def translation_config(model: exp_transformer_fr.Args) -> seq2seq.Config:
    v = model.vocabulary
    return seq2seq.Config(model.encoder_layers, model.decoder_layers, model.block(), v, v, model.shared)


def gpt2(args: Gpu, peer: str, vocabulary: str) -> None:
    """GPT-2-124M by AdamW on windows of 1,024: tokens a second, share of the peak, memory."""
    size = TINY if args.dry else {**BEST, "vocabulary": int(vocabulary)}
    kind = {"norm": "layer", "position": "learned", "activation": "gelu", "bias": "all", "optimizer": "adamw"}
    model = exp_gpt_hemingway.Args(steps=1000, **kind, **size)  # type: ignore[arg-type]
    cfg, turn = language.gpt_config(model), Turn(args)
    shape, most = (model.rows, model.length + 1), min(cfg.vocabulary, BEST["vocabulary"])
    windows = [random.randint(random.key(i, args.device), shape, 0, most).long() for i in range(4)]
    state = exp_gpt_hemingway.init_state(random.key(0, args.device), cfg, model)
    d, layers = model.width, model.layers  # FLOPs as nanoGPT counts them: 6 N + 12 L d T, N without positions
    flops = 6 * (12 * layers * d * d + model.vocabulary * d) + 12 * layers * d * model.length
    told = partial(
        report, args, "gpt2", tokens=model.rows * model.length, n=10, flops=flops, vocabulary=cfg.vocabulary
    )  # fmt: skip
    since = time.perf_counter()
    if peer == "nn.Module":
        with usual(turn):
            module = language.Gpt(state.params, cfg)
            del state
            trainer = language.gpt_trainer(module, model, args.dtype, True)
            first_loss = float(trainer.step(windows[0]))
        first = round(time.perf_counter() - since, 1)
        told(lambda i: trainer.step(windows[i % 4]), peer="nn.Module, compiled", first_s=first, first_loss=first_loss)
        return
    step = partial(exp_gpt_hemingway.step, cfg=cfg, args=model, dtype=args.dtype)
    update = ours(args, turn, step, GPT2_PEERS[peer])

    def train(update: Callable, i: int) -> torch.Tensor:
        nonlocal state
        state, out = update(state, windows[i % 4])
        return out["train/loss"]

    first_loss = float(train(update, 0))
    first = round(time.perf_counter() - since, 1)
    told(partial(train, update), peer=f"{peer}, compiled", first_s=first, first_loss=first_loss)
    if peer == "ours":
        told(partial(train, graphed(update)), peer="ours, one CUDA graph")


def translation(args: Gpu, peer: str, preset: str) -> None:
    """exp_transformer_fr's step on made-up sentences, `small` or `best`, by AdamW and with waves, as the baseline."""
    model: Any = replace(exp_transformer_fr.PRESETS[preset], muon_lr=0.0, position="sinusoidal")
    if args.dry:
        model = replace(model, width=32, heads=2, ff=48, encoder_layers=1, decoder_layers=1, rows=4, vocabulary=300)
    if peer == "nn.Module":  # which has three tables, and a factor as learning rate
        model = replace(model, shared=False, schedule="inverse_sqrt")
    turn, cfg, host = Turn(args), translation_config(model), packed(model, 3)
    data = [tree.to(batch, args.device) for batch in host]
    useful = int((host[0].target_out != tokens.PAD).sum())
    state = exp_transformer_fr.init_state(random.key(0, args.device), cfg, model)
    told = partial(report, args, "translation", tokens=useful, n=20, preset=preset)
    since = time.perf_counter()
    if peer == "nn.Module":
        with usual(turn):
            module = modules.from_tree(state.params, cfg, model.length, model.smoothing)
            trainer = modules.Trainer(module, model, args.dtype, True)
            trainer.step(data[0])
        first = round(time.perf_counter() - since, 1)
        told(lambda i: trainer.step(data[i % len(data)]), peer="nn.Module, compiled", first_s=first)
        return
    if peer == WRITTEN_OUT:
        random._opaque = lambda key: False
    update = ours(args, turn, partial(exp_transformer_fr.step, cfg=cfg, args=model, dtype=args.dtype))

    def train(update: Callable, i: int) -> None:
        nonlocal state
        state, _ = update(state, data[i % len(data)])

    train(update, 0)
    told(partial(train, update), peer=f"{peer}, compiled", first_s=round(time.perf_counter() - since, 1))
    told(partial(train, graphed(update)), peer=f"{peer}, one CUDA graph")


def attention(args: Gpu) -> None:
    """Attention alone, forward and backward: what each of torch's kernels does with our masks."""
    Turn(args).take()
    cases = {"causal, 1,024": (16, 12, 1024, 64), "packed, 64": (128, 8, 64, 64), "packed, 1,024": (8, 12, 1024, 64)}
    for case, (b, h, t, c) in cases.items():
        b, t = (1, 16) if args.dry else (b, t)
        q, k, v = (torch.randn(b, h, t, c, device=args.device, dtype=args.dtype, requires_grad=True) for _ in range(3))
        segment = torch.arange(t, device=args.device) // max(1, t // 8)
        mask = (segment[:, None] == segment[None]) & torch.ones(t, t, dtype=torch.bool, device=args.device).tril()
        given: dict = {"is_causal": True} if case.startswith("causal") else {"attn_mask": mask.expand(b, 1, t, t)}

        def both() -> Any:
            y = F.scaled_dot_product_attention(q, k, v, **given)  # noqa: B023
            return torch.autograd.grad(y.float().sum(), (q, k, v))  # noqa: B023

        found: dict[str, Any] = {}
        for name, kinds in {"torch's choice": list(SDPA.values()), **SDPA}.items():
            try:
                with sdpa_kernel(kinds):
                    both()
                    found[name] = timed(args, both, 5)[0]
            except RuntimeError as error:
                found[name] = str(error)[:60]
        emit(args, "attention", case=case, ms=found)


def bench(args: Gpu, name: str) -> None:
    """A step of `just bench`, all peers in turn; the usual one also with torch's CUDA graphs."""
    make, works, inner = STEPS[name][0], {}, 1 if args.dry else 10
    compiled = ["nn.Module, compiled", REDUCED, "ours, compiled"]
    compiled = compiled[2:] if name == "exp_lstm_novel" else compiled  # torch.compile leaves nn.LSTM as it is
    for peer in ["nn.Module, eager", "ours, eager", *([] if args.dry else compiled)]:
        try:
            with usual("reduce-overhead" if peer == REDUCED else "default"):
                train = make("nn.Module, compiled" if peer == REDUCED else peer, args.device, args.dtype)
                for n in range(args.warm):  # beside what others time: these are few and small
                    train(n)
                works[peer] = train
        except Exception as error:
            failed(args, [name, peer], error)
    Turn(args).take()
    measure.PAUSE = 0.0
    many = {peer: partial(measure.several, train, inner) for peer, train in works.items()}
    seconds = measure.take_turns(many, 1 if args.dry else ROUNDS, args.device)
    base = seconds.get("nn.Module, compiled") or seconds["nn.Module, eager"]
    for peer, found in seconds.items():
        ms, ratio = statistics.median(found) / inner * 1e3, measure.ratio(found, base)
        emit(args, "bench", step=name, peer=peer, ms=round(ms, 4), ratio=round(ratio, 3))


def at_once(args: Gpu) -> None:
    """Replicas of exp_gan_curve's `book` step: one vmapped step, and one after another, each as CUDA graphs."""
    model: Any = exp_gan_curve.PRESETS["book"]
    turn, curve = Turn(args), exp_gan_curve.curve(model.formula)
    for n in (1, 4) if args.dry else (1, 8, 64):
        states = [exp_gan_curve.init_state(random.key(i, args.device), model) for i in range(n)]
        one = ours(args, turn, partial(exp_gan_curve.step, args=model, curve=curve))
        all_ = ours(args, turn, replicas.vmapped(partial(exp_gan_curve.step, curve=curve), model, {}))
        for way, update in {"one after another": replicas.looped([graphed(one)] * n), "vmapped": graphed(all_)}.items():
            state = tree.stack(states)

            def step() -> None:
                nonlocal state
                state, _ = update(state)  # noqa: B023

            for _ in range(args.warm):
                step()
            ms = timed(args, step, 20)
            emit(args, "replicas", n=n, way=way, ms=ms, points_per_second=round(n * model.batch / ms[0] * 1e3))


# ---- trained as a user would ----


def train(args: Gpu, name: str, *words: str) -> None:
    """`just run NAME WORDS`; stands still while something is timed."""
    real, path, mark = run.Run.progress, args.out / name, args.out / f"training.{os.getpid()}"

    def progress(self: run.Run) -> Iterator[int]:
        for i, n in enumerate(real(self)):
            yield n
            if i == 0 and not args.dry:  # compiled: from now on it may be stopped, and waits for who is timed now
                mark.touch()
                turns.pass_by(args)

    run.Run.progress, before = progress, sys.argv  # type: ignore[method-assign]
    sys.argv = ["experiments", name, *words, "--run", str(path), "--device", args.device.type]
    sys.argv += ["--data-dir", str(args.data_dir)] if args.data_dir else []
    try:
        runpy.run_module("experiments", run_name="__main__", alter_sys=False)
    finally:
        run.Run.progress, sys.argv = real, before  # type: ignore[method-assign]
        mark.unlink(missing_ok=True)
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        speed = [line["perf/tokens_per_second"] for line in lines if "perf/tokens_per_second" in line]
        held_out = [{k: v for k, v in line.items() if k == "step" or k.startswith("val/")} for line in lines]
        done = {"steps": lines[-1]["step"], "seconds": lines[-1]["seconds"]}
        done["tokens_per_second"] = round(statistics.median(speed)) if speed else None
        result = json.loads((path / "result.json").read_text()) if (path / "result.json").exists() else {}
        emit(args, "train", name=name, words=words, **done, val=[x for x in held_out if len(x) > 1], result=result)


STAGES: dict[str, Callable] = {
    "ceilings": ceilings, "draws": draws, "steps": steps, "tests": experiments, "gpt2": gpt2,
    "translation": translation, "attention": attention, "bench": bench, "replicas": at_once, "train": train,
}  # fmt: skip
MODELS = [
    ("gpt2 ours 50257", 0), ("gpt2 nn.Module 50257", 0), ("gpt2 ours 50304", 5), ("gpt2 ours,_tuned 50257", 9),
    ("translation ours best", 0), ("translation nn.Module best", 1), ("translation ours small", 2),
    ("translation nn.Module small", 4), (f"translation {WRITTEN_OUT.replace(' ', '_')} best", 9),
]  # fmt: skip
SMALL = "--width 16 --heads 2 --ff 16 --rows 4 --vocabulary 300 --compile off --steps 2"


def plan(args: Gpu) -> list[tuple[list[str], int]]:
    """The stages with their arguments, the most valuable first, and how far each gives way to the others."""
    found = [([word.replace("_", " ") for word in name.split()], nice) for name, nice in MODELS]
    found += [(["draws"], 0), (["steps"], 6), (["tests", str(0.3 * args.budget)], 3), (["attention"], 4)]
    found += [(["replicas"], 6)]
    found += [(["bench", name], 8) for name in BENCHED if not (args.dry and name in faces.STEPS)]
    translator = f"{args.translator} --data tatoeba --test-sentences 5000 --steps {args.translator_steps} --compile on"
    novel = f"best --data hemingway --steps {args.novel_steps} --compile on"
    if args.dry:
        translator = f"--encoder-layers 1 --decoder-layers 1 --test-sentences 2 {SMALL}"
        novel = f"--layers 1 --length 16 {SMALL}"
    found += [(["train", "exp_transformer_fr", *translator.split()], 0)]
    found += [(["train", "exp_gpt_hemingway", *novel.split()], 5)]
    return [(words, nice) for words, nice in found if not args.only or " ".join(words).startswith(args.only)]


def main(args: Gpu) -> None:
    if not (args.dry or torch.cuda.is_available()):
        sys.exit("error: no GPU here; --dry does everything at tiny sizes on a CPU")
    args.out.mkdir(parents=True, exist_ok=True)
    for path in [args.out / "gpu.jsonl", *args.out.glob("training.*")]:
        path.unlink(missing_ok=True)
    first: list[tuple[list[str], int]] = [] if args.only and "ceilings" not in args.only else [(["ceilings"], 0)]
    if args.dry:
        for words, _ in first + plan(args):
            stage(args, words)
    else:
        wait([Child(args, *each) for each in first], 60)
        wait([Child(args, *each) for each in plan(args)], args.budget - 5)
    lines = [json.loads(line) for line in (args.out / "gpu.jsonl").read_text().splitlines()]
    text = f"{table(lines)}\n\n`just gpu {' '.join(sys.argv[1:])}`; {measure.environment(args.device)}"
    print(text)
    if args.results:
        measure.put(text, args.results, "gpu")
    sys.exit(1 if any(map(wrong, lines)) else 0)


def wrong(line: dict[str, Any]) -> bool:
    """Whether a stage failed, or found the GPU wrong: a test that failed, a draw that is another one than on a CPU."""
    if line["stage"] == "draws":
        return any(": " in str(found) for found in line.values())
    return line["stage"] in ("failed", "out of time") or (line["stage"] == "tests" and line["rc"] != 0)


def stage(args: Gpu, words: list[str]) -> None:
    """One stage in this process; what it raises is a line too."""
    try:
        STAGES[words[0]](args, *words[1:])
    except Exception as error:
        failed(args, words, error)
        if not args.dry:
            raise


def table(lines: list[dict[str, Any]]) -> str:
    """What was timed, as Markdown."""
    head, rows = ["what", "who", "ms a step, median (min-max)", "a second", "MFU", "GiB"], []
    for x in lines:
        if x["stage"] not in ("gpt2", "translation", "replicas", "bench"):
            continue
        what = x.get("step") or " ".join(str(x[k]) for k in ("stage", "preset", "vocabulary", "n") if k in x)
        ms = str(x["ms"]) if isinstance(x["ms"], float) else "{} ({}-{})".format(*x["ms"])
        rate = x.get("tokens_per_second") or x.get("points_per_second") or f"{x['ratio']} of nn.Module"
        rows.append([what, x.get("peer") or x["way"], ms, str(rate), str(x.get("mfu", "")), str(x.get("gib") or "")])
    return measure.markdown(head, rows)


if __name__ == "__main__":
    words = sys.argv[1:]
    at = words.index(STAGE) if STAGE in words else len(words)  # a stage's words may look like flags
    flags = tyro.cli(Gpu, description=__doc__, args=words[:at])
    if words[at:]:
        stage(flags, json.loads(words[at + 1]))
    else:
        main(flags)
