"""Ten minutes of a GPU that tell everything: `just gpu`.

In order of value, each stage in a process of its own, each result a JSON line of OUT/gpu.jsonl at once and a table at
the end: what the machine gives (ceilings); whether the numbers are a CPU's (draws, steps, the experiments' own tests
with `--device cuda`); GPT-2-124M and the translator, compiled, with and without a CUDA graph, beside the usual nn.Module
with fused AdamW; attention alone; the bench's other steps; replicas at once beside one after another; then, with the
time that is left, exp_transformer_fr `best` on tatoeba and exp_gpt_hemingway `best` as a user runs them.

What is timed has the GPU to itself: it holds an exclusive lock from its first kernel on. Tests share the lock;
compilation, on the CPU, needs none. Trainings stand still while something is timed. `--dry` does all of it at tiny sizes on a CPU.
Nothing is downloaded where `--data-dir` holds tatoeba's fra-eng.zip and Hemingway's novels.
"""

import atexit
import fcntl
import json
import os
import re
import runpy
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from lib import random, replicas, run, transform, tree
from lib.cudagraph import Graphed
from tests.bench import measure

STARTED = float(os.environ.setdefault("GPU_STARTED", str(time.time())))
PEAK = 989e12  # dense bf16 of an H100 or H200 SXM, FLOP/s
ROUNDS = 5
STAGE = "--stage"  # before one stage and its arguments, for a process of its own
GPT2 = {"vocabulary": 50_257, "layers": 12, "width": 768, "heads": 12, "ff": 3072, "length": 1024, "rows": 32}
TINY = {"vocabulary": 300, "layers": 1, "width": 32, "heads": 2, "ff": 48, "length": 16, "rows": 4}
STEPS = ["exp_gan_fashion", "exp_gan_curve", "exp_dcgan_faces", "exp_cgan_glasses, critic", "exp_lstm_novel"]


@dataclass(frozen=True)
class Gpu:
    """Measure everything worth knowing on one GPU."""

    budget: float = 560.0
    """Seconds in all."""
    only: tuple[str, ...] = ()
    """Stages, or how they begin: ceilings, draws, steps, tests, "gpt2 ours 50257", translation, attention, bench,
    replicas, train. All if none."""
    translator: Literal["best", "small"] = "best"
    """The preset of exp_transformer_fr."""
    translator_steps: int = 12_000
    novel_steps: int = 2500
    data_dir: Path | None = None
    """Where to look for data files before downloading them."""
    out: Path = Path("runs/gpu")
    """Where gpu.jsonl, logs and the runs go."""
    dry: bool = False
    """Tiny sizes on a CPU, one stage after another, nothing compiled."""

    def __post_init__(self) -> None:
        if unknown := {name.split()[0] for name in self.only} - set(STAGES):
            raise ValueError(f"--only {' '.join(sorted(unknown))}: no such stage; there are {', '.join(STAGES)}")

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.dry else torch.device("cuda", 0)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.dry else torch.bfloat16


def now() -> float:
    return time.time() - STARTED


def emit(args: Gpu, stage: str, **row: Any) -> None:
    """A result, at once: a line of gpu.jsonl and of the terminal."""
    line = json.dumps({"stage": stage, "t": round(now(), 1), **row}, default=str)
    with open(args.out / "gpu.jsonl", "a") as file:
        file.write(line + "\n")
    print(line[:400], flush=True)


def signal_all(out: Path, number: signal.Signals) -> int:
    """Stops the trainings, or lets them go on. How many there are."""
    trainings = [int(path.suffix[1:]) for path in out.glob("training.*")]
    for pid in trainings:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return len(trainings)


class Turn:
    """The lock on the GPU. `take` it when what is compiled is about to run; it is held as long as the process lives."""

    def __init__(self, args: Gpu, exclusive: bool = True) -> None:
        self.file, self.held = open(args.out / "lock", "a"), False  # noqa: SIM115
        self.kind, self.out, self.dry = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, args.out, args.dry

    def take(self) -> None:
        if self.held:
            return
        fcntl.flock(self.file, self.kind)
        self.held = True
        if self.kind == fcntl.LOCK_EX and signal_all(self.out, signal.SIGSTOP):
            atexit.register(signal_all, self.out, signal.SIGCONT)
            time.sleep(0.5)  # what they have asked of the GPU is done by then

    def backend(self, options: dict | None = None) -> Callable:
        """inductor, whose compiled function waits for its turn before it runs; in a dry run nothing is compiled."""

        def compiled(graph: Any, inputs: list, **_: Any) -> Callable:
            from torch._inductor.compile_fx import compile_fx

            fn = graph.forward if self.dry else compile_fx(graph, inputs, config_patches=options or {})

            def call(*args: Any) -> Any:
                self.take()
                return fn(*args)

            return call

        return compiled


@contextmanager
def usual(how: Turn | str) -> Iterator[None]:
    """Inside, torch.compile of an nn.Module waits for its turn, or has a mode of torch's."""
    real = torch.compile
    words = {"mode": how} if isinstance(how, str) else {"backend": how.backend()}
    torch.compile = lambda fn, **given: real(fn, **(words if isinstance(fn, torch.nn.Module) else given))  # type: ignore
    try:
        yield
    finally:
        torch.compile = real


def ours(args: Gpu, turn: Turn, step: Callable, options: dict | None = None) -> Callable:
    """Our compiled and donated step, without a CUDA graph."""
    backend: Any = turn.backend(transform.INDUCTOR if options is None else options)
    return transform.jit(step, backend=backend, graphed=False)


def graphed(update: Callable) -> Callable:
    """The same as one CUDA graph, without compiling anew."""
    run = Graphed(lambda state, *batch: update(state, *batch)[1])
    return lambda state, *batch: (state, run(state, *batch))


def timed(args: Gpu, fn: Callable[[], Any], n: int) -> list[float]:
    """Milliseconds of a call, by rounds of n calls each: median, least and most."""
    found = []
    for _ in range(1 if args.dry else ROUNDS):
        seconds = measure.timed(lambda: [fn() for _ in range(1 if args.dry else n)], args.device)
        found.append(seconds / (1 if args.dry else n) * 1e3)
    return [round(x, 4) for x in (statistics.median(found), min(found), max(found))]


def memory(args: Gpu) -> float | None:
    """GiB that torch had allocated at most since the last call."""
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
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("fp32", torch.float32, False),
        ("tf32", torch.float32, True),
    ):
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
    """Three steps of the translator and of the GPT on the CPU and on the GPU: how far apart they are; twice on the GPU:
    whether they are the same bits; in one CUDA graph: whether it is the same run."""
    from experiments import exp_gpt_hemingway as novel
    from experiments import exp_transformer_fr as translation
    from lib import gpt, seq2seq, transformer

    Turn(args, exclusive=False).take()
    run.device(run.Args(device="cpu"))
    size = {"width": 64, "heads": 4, "ff": 128, "rows": 8, "dropout": 0.1, "steps": 100}
    one = translation.Args(encoder_layers=2, decoder_layers=2, vocabulary=500, **size)  # type: ignore[arg-type]
    cfg = seq2seq.Config(2, 2, transformer.Config(64, 4, 128, 0.1, one.norm), 500, 500, True)
    two = novel.Args(layers=2, length=64, **size)  # type: ignore[arg-type]
    gpt_cfg = gpt.Config(500, 64, 2, transformer.Config(64, 4, 128, 0.1, "rms", "swiglu", "rotary", "none"), "tied")
    window = random.randint(random.key(1), (8, 65), 0, 500).long()
    cases: dict[str, tuple[Callable, Callable, Any]] = {
        "translation": (partial(translation.init_state, cfg=cfg, args=one), partial(translation.step, cfg=cfg, args=one), batches(one, 1)[0]),
        "gpt, muon": (partial(novel.init_state, cfg=gpt_cfg, args=two), partial(novel.step, cfg=gpt_cfg, args=two), window),
    }  # fmt: skip

    def after(update: Callable, init: Callable, batch: Any, device: torch.device, n: int = 6) -> torch.Tensor:
        state, batch = init(random.key(3, device)), tree.to(batch, device)
        for _ in range(n):
            state, _ = update(state, batch)
        return torch.cat([x.detach().double().cpu().flatten() for x in tree.leaves(state.params)])

    for name, (init, step, batch) in cases.items():
        step = partial(step, dtype=torch.float32)
        host = after(step, init, batch, torch.device("cpu"))
        ways = {"eager": step}
        if not args.dry:
            ways |= {"one CUDA graph": transform.jit(step), "the same, deterministic": transform.jit(step)}
        for way, update in ways.items():
            run.device(run.Args(device="cpu", deterministic="deterministic" in way))
            try:
                first, again = (after(update, init, batch, args.device) for _ in range(2))
                apart = {"from_cpu": float((first - host).norm() / host.norm()), "twice": float((first - again).norm() / host.norm())}  # fmt: skip
                emit(args, "steps", case=name, way=way, relative_distance=apart)
            except Exception as error:
                emit(args, "steps", case=name, way=way, error=f"{type(error).__name__}: {str(error)[:400]}")


def experiments(args: Gpu, limit: str) -> None:
    """The experiments' own tests: each trains, is resumed and is used, on the GPU."""
    Turn(args, exclusive=False).take()
    words = ["-m", "pytest", "-q", "--no-header", "--tb=short", "-rfE", "--color=no"]
    words += (
        ["-n", "0", "tests/test_gan_toys.py"] if args.dry else ["--device", "cuda", "-n", "7", "--maxprocesses", "7"]
    )
    with open(args.out / "tests.txt", "w") as log:
        process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log, start_new_session=True)
        try:
            process.wait(float(limit))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    said = (args.out / "tests.txt").read_text()
    bad = [line[:300] for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
    emit(args, "tests", rc=process.returncode, last=said.strip().splitlines()[-1:], failed=bad[:30])


# ---- the steps that matter ----


def batches(model: Any, n: int) -> list[Any]:
    """n packed batches of made-up sentences of 4 to 16 tokens, as most of tatoeba's."""
    from lib.data import packing, tokens

    def sentences(step: int) -> list[list[int]]:
        lengths = [min(4 + step * i % 13, model.length - 1) for i in range(n * model.rows * model.length // 6)]
        return [[3 + (31 * i + 17 * j) % (model.vocabulary - 3) for j in range(m)] for i, m in enumerate(lengths)]

    corpus = packing.Tokens(sentences(7), sentences(5))
    rows = packing.pack(corpus, list(range(len(corpus.source))), model.length)
    parts = [rows[i * model.rows : (i + 1) * model.rows] for i in range(n)]
    return [packing.collate(corpus, part, model.length, tokens.START, tokens.END) for part in parts]


def gpt2(args: Gpu, peer: str, vocabulary: str) -> None:
    """GPT-2-124M by AdamW on windows of 1,024: tokens a second, share of the peak, memory."""
    from experiments import exp_gpt_hemingway as novel
    from tests.bench import language

    size = TINY if args.dry else {**GPT2, "vocabulary": int(vocabulary)}
    kind = {"norm": "layer", "position": "learned", "activation": "gelu", "bias": "all", "optimizer": "adamw"}
    model = novel.Args(steps=1000, **kind, **size)  # type: ignore[arg-type]
    cfg, turn = language.gpt_config(model), Turn(args)
    shape = model.rows, model.length + 1
    windows = [
        random.randint(random.key(i, args.device), shape, 0, min(cfg.vocabulary, 50_257)).long() for i in range(4)
    ]
    state = novel.init_state(random.key(0, args.device), cfg, model)
    d, n = model.width, model.layers  # FLOPs as nanoGPT estimates them: 6 N + 12 L d T, N without positions
    flops = 6 * (12 * n * d * d + model.vocabulary * d) + 12 * n * d * model.length

    def report(peer: str, step: Callable[[int], Any], **more: Any) -> None:
        count = iter(range(1 << 30))
        for _ in range(6):
            loss = float(step(next(count)))
        memory(args)
        ms = timed(args, lambda: step(next(count)), 10)
        rate = model.rows * model.length / ms[0] * 1e3
        emit(args, "gpt2", peer=peer, vocabulary=cfg.vocabulary, ms=ms, tokens_per_second=round(rate), mfu=round(rate * flops / PEAK, 4), gib=memory(args), loss=loss, **more)  # fmt: skip
        emit(args, "gpt2.kernels", peer=peer, **kernels(args, lambda: step(next(count))))

    since = time.perf_counter()
    if peer == "nn.Module":
        with usual(turn):
            module = language.Gpt(state.params, cfg)
            del state
            trainer = language.gpt_trainer(module, model, args.dtype, True)
            float(trainer.step(windows[0]))
        report(
            "nn.Module, compiled", lambda i: trainer.step(windows[i % 4]), first_s=round(time.perf_counter() - since, 1)
        )
        return
    options = {
        "ours": None,
        "ours, plain": {},
        "ours, tuned": {**transform.INDUCTOR, "coordinate_descent_tuning": True},
    }
    update = ours(args, turn, partial(novel.step, cfg=cfg, args=model, dtype=args.dtype), options[peer])

    def step(update: Callable, i: int) -> torch.Tensor:
        nonlocal state
        state, out = update(state, windows[i % 4])
        return out["train/loss"]

    float(step(update, 0))
    report(f"{peer}, compiled", partial(step, update), first_s=round(time.perf_counter() - since, 1))
    if peer == "ours":
        report("ours, one CUDA graph", partial(step, graphed(update)))


def translation(args: Gpu, peer: str, preset: str) -> None:
    """exp_transformer_fr's step on made-up sentences, `small` or `best`."""
    from experiments import exp_transformer_fr as exp
    from lib import seq2seq, transformer
    from tests.bench import modules

    model = replace(exp.PRESETS[preset], vocabulary=exp.PRESETS[preset].vocabulary)  # type: ignore[call-arg]
    if args.dry:
        model = replace(model, width=32, heads=2, ff=48, encoder_layers=1, decoder_layers=1, rows=4, vocabulary=300)
    if peer == "nn.Module":  # which has three tables, no average of the weights, and a factor as learning rate
        model = replace(model, shared=False, schedule="inverse_sqrt", ema_decay=0.0)
    turn, v = Turn(args), model.vocabulary
    host = batches(model, 3)
    data = [tree.to(b, args.device) for b in host]
    useful = int((host[0].target_out != 0).sum())
    block = transformer.Config(model.width, model.heads, model.ff, model.dropout, model.norm)
    cfg = seq2seq.Config(model.encoder_layers, model.decoder_layers, block, v, v, model.shared)
    state = exp.init_state(random.key(0, args.device), cfg, model)

    def report(peer: str, step: Callable[[int], Any], **more: Any) -> None:
        count = iter(range(1 << 30))
        for _ in range(6):
            step(next(count))
        memory(args)
        ms = timed(args, lambda: step(next(count)), 20)
        emit(args, "translation", preset=preset, peer=peer, ms=ms, tokens_per_second=round(useful / ms[0] * 1e3), gib=memory(args), **more)  # fmt: skip
        emit(args, "translation.kernels", preset=preset, peer=peer, **kernels(args, lambda: step(next(count))))

    since = time.perf_counter()
    if peer == "nn.Module":
        with usual(turn):
            module = modules.from_tree(state.params, cfg, model.length, model.smoothing)
            trainer = modules.Trainer(module, model, args.dtype, True)
            trainer.step(data[0])
        report("nn.Module, compiled", lambda i: trainer.step(data[i % len(data)]), first_s=round(time.perf_counter() - since, 1))  # fmt: skip
        return
    if peer == "ours, draws written out":
        random._opaque = lambda key: False
    update = ours(args, turn, partial(exp.step, cfg=cfg, args=model, dtype=args.dtype))

    def step(update: Callable, i: int) -> None:
        nonlocal state
        state, _ = update(state, data[i % len(data)])

    step(update, 0)
    report(f"{peer}, compiled", partial(step, update), first_s=round(time.perf_counter() - since, 1))
    report(f"{peer}, one CUDA graph", partial(step, graphed(update)))


def attention(args: Gpu) -> None:
    """Attention alone, forward and backward: what each of torch's kernels does with our masks."""
    import torch.nn.functional as F  # noqa: N812
    from torch.nn.attention import SDPBackend, sdpa_kernel

    Turn(args).take()
    cases = {"causal, 1,024": (16, 12, 1024, 64), "packed, 64": (128, 8, 64, 64), "packed, 1,024": (8, 12, 1024, 64)}
    kinds = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH}  # fmt: skip
    for case, (b, h, t, c) in cases.items():
        b, t = (1, 16) if args.dry else (b, t)
        q, k, v = (torch.randn(b, h, t, c, device=args.device, dtype=args.dtype, requires_grad=True) for _ in range(3))
        segment = torch.arange(t, device=args.device) // max(1, t // 8)
        mask = (segment[:, None] == segment[None]) & torch.ones(t, t, dtype=torch.bool, device=args.device).tril()
        given = {"is_causal": True} if case.startswith("causal") else {"attn_mask": mask.expand(b, 1, t, t)}

        def both() -> Any:
            y = F.scaled_dot_product_attention(q, k, v, **given)  # type: ignore[arg-type] # noqa: B023
            return torch.autograd.grad(y.float().sum(), (q, k, v))  # noqa: B023

        found: dict[str, Any] = {}
        for name, kind in {"torch's choice": None, **kinds}.items():
            try:
                with sdpa_kernel(kind if kind is not None else list(kinds.values())):
                    both()
                    found[name] = timed(args, both, 5)[0]
            except RuntimeError as error:
                found[name] = str(error)[:60]
        emit(args, "attention", case=case, ms=found)


def bench(args: Gpu, name: str) -> None:
    """A step of `just bench`, all peers in turn; the usual one also with torch's CUDA graphs."""
    from tests.bench import faces, gans, language

    make, _ = {**gans.STEPS, **faces.STEPS, **language.STEPS}[name]
    works, inner, reduced = {}, 1 if args.dry else 10, "nn.Module, reduce-overhead"
    compiled = [] if args.dry else ["nn.Module, compiled", reduced, "ours, compiled"]
    compiled = compiled[2:] if name == "exp_lstm_novel" else compiled  # torch.compile leaves nn.LSTM as it is
    for peer in ["nn.Module, eager", "ours, eager", *compiled]:
        try:
            with usual("reduce-overhead" if peer == reduced else "default"):
                train = make("nn.Module, compiled" if peer == reduced else peer, args.device, args.dtype)
                for n in range(1 if args.dry else 6):  # beside what others time: these are few and small
                    train(n)
                works[peer] = train
        except Exception as error:
            emit(args, "bench", step=name, peer=peer, error=f"{type(error).__name__}: {str(error)[:300]}")
    Turn(args).take()
    measure.PAUSE = 0.0
    many = {peer: partial(measure.several, train, inner) for peer, train in works.items()}
    seconds = measure.take_turns(many, 1 if args.dry else ROUNDS, args.device)
    base = seconds.get("nn.Module, compiled") or seconds["nn.Module, eager"]
    for peer, found in seconds.items():
        emit(args, "bench", step=name, peer=peer, ms=round(statistics.median(found) / inner * 1e3, 4), ratio=round(measure.ratio(found, base), 3))  # fmt: skip


def vmapped(args: Gpu) -> None:
    """Replicas of exp_gan_curve's `book` step: one vmapped step, and one after another, each as CUDA graphs."""
    from experiments import exp_gan_curve as exp

    model, turn = exp.PRESETS["book"], Turn(args)
    curve = exp.curve(model.formula)  # type: ignore[attr-defined]
    for n in (1, 4) if args.dry else (1, 8, 64):
        states = [exp.init_state(random.key(i, args.device), model) for i in range(n)]  # type: ignore[arg-type]
        one = ours(args, turn, partial(exp.step, args=model, curve=curve))
        all_ = ours(args, turn, replicas.vmapped(partial(exp.step, curve=curve), model, {}))
        for way, update in {"one after another": replicas.looped([graphed(one)] * n), "vmapped": graphed(all_)}.items():
            state = tree.stack(states)
            for _ in range(1 if args.dry else 6):
                state, out = update(state)
            measure.wait(out, args.device)

            def step() -> None:
                nonlocal state
                state, _ = update(state)  # noqa: B023

            ms = timed(args, step, 20)
            emit(args, "replicas", n=n, way=way, ms=ms, points_per_second=round(n * model.batch / ms[0] * 1e3))  # type: ignore[attr-defined] # fmt: skip


# ---- trained as a user would ----


def train(args: Gpu, name: str, *words: str) -> None:
    """`just run NAME WORDS`; stands still while something is timed."""
    real, path, mark = run.Run.progress, args.out / name, args.out / f"training.{os.getpid()}"

    def progress(self: run.Run) -> Iterator[int]:
        for i, n in enumerate(real(self)):
            yield n
            if i == 0:  # compiled: from now on it stands still while something is timed
                mark.touch()

    run.Run.progress = progress  # type: ignore[method-assign]
    sys.argv = ["experiments", name, *words, "--run", str(path), "--device", args.device.type]
    sys.argv += ["--data-dir", str(args.data_dir)] if args.data_dir else []
    try:
        runpy.run_module("experiments", run_name="__main__", alter_sys=False)
    finally:
        mark.unlink(missing_ok=True)
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        speed = [line["perf/tokens_per_second"] for line in lines if "perf/tokens_per_second" in line]
        seen = [(x["step"], x["seconds"], *(v for k, v in x.items() if k.startswith("val/"))) for x in lines if any(k.startswith("val/") for k in x)]  # fmt: skip
        result = json.loads((path / "result.json").read_text()) if (path / "result.json").exists() else {}
        emit(args, "train", name=name, words=words, steps=lines[-1]["step"], seconds=lines[-1]["seconds"], tokens_per_second=round(statistics.median(speed)) if speed else None, val=seen[-12:], result=result)  # fmt: skip


STAGES: dict[str, Callable] = {
    "ceilings": ceilings, "draws": draws, "steps": steps, "tests": experiments, "gpt2": gpt2,
    "translation": translation, "attention": attention, "bench": bench, "replicas": vmapped, "train": train,
}  # fmt: skip


def plan(args: Gpu) -> list[tuple[list[str], int]]:
    """The stages with their arguments, the most valuable first, and how far each gives way to the others."""
    found: list[tuple[list[str], int]] = [(["draws"], 0), (["steps"], 0)]
    found += [(["gpt2", peer, v], nice) for peer, v, nice in [("ours", "50257", 0), ("nn.Module", "50257", 0), ("ours", "50304", 5), ("ours, tuned", "50257", 9)]]  # fmt: skip
    found += [(["translation", peer, preset], nice) for peer, preset, nice in [("ours", "best", 0), ("nn.Module", "best", 1), ("ours", "small", 2), ("nn.Module", "small", 4), ("ours, draws written out", "best", 9)]]  # fmt: skip
    found += [(["tests", str(0.3 * args.budget)], 3), (["attention"], 4), (["replicas"], 6)]
    found += [(["bench", name], 8) for name in STEPS]
    translator, novel = ["--steps", str(args.translator_steps)], ["--steps", str(args.novel_steps)]
    if args.dry:
        shape = [
            "--width",
            "16",
            "--heads",
            "2",
            "--ff",
            "16",
            "--rows",
            "4",
            "--vocabulary",
            "300",
            "--compile",
            "off",
        ]
        translator = ["--steps", "2", "--encoder-layers", "1", "--decoder-layers", "1", "--test-sentences", "2", *shape]
        novel = ["--steps", "2", "--layers", "1", "--length", "16", *shape]
    else:
        translator = [args.translator, "--test-sentences", "5000", "--data", "tatoeba", "--compile", "on", *translator]
        novel = ["best", "--data", "hemingway", "--compile", "on", *novel]
    found += [(["train", "exp_transformer_fr", *translator], 3), (["train", "exp_gpt_hemingway", *novel], 8)]
    return [(words, nice) for words, nice in found if not args.only or " ".join(words).startswith(args.only)]


class Child:
    """A stage in a process of its own, and its children's."""

    def __init__(self, args: Gpu, words: list[str], nice: int) -> None:
        self.args, self.title = args, " ".join(words)
        command = [sys.executable, "-m", "tests.bench.gpu", "--budget", str(args.budget), "--out", str(args.out)]
        command += (["--dry"] if args.dry else []) + (["--data-dir", str(args.data_dir)] if args.data_dir else [])
        command += [STAGE, json.dumps(words)]
        cache = args.out / "inductor" / re.sub(r"\W+", "-", self.title)[:60]  # its own: caches lock one another out
        env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "TORCHINDUCTOR_COMPILE_THREADS": "6"}
        env |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"), "PYTHONUNBUFFERED": "1"}
        self.log = open(args.out / f"{re.sub(r'[^a-z0-9]+', '-', self.title.lower())[:40]}.log", "w")  # noqa: SIM115
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, env=env, start_new_session=True, preexec_fn=lambda: os.nice(nice) and None)  # noqa: PLW1509 # fmt: skip

    def over(self) -> bool:
        if self.process.poll() is None:
            return False
        signal_all(self.args.out, signal.SIGCONT) if self.process.returncode < 0 else None
        if self.process.returncode:
            tail = Path(self.log.name).read_text().strip().splitlines()[-6:]
            emit(self.args, "failed", child=self.title, rc=self.process.returncode, last=[line[:300] for line in tail])
        return True

    def kill(self) -> None:
        emit(self.args, "out of time", child=self.title)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def wait(args: Gpu, children: list[Child], until: float) -> None:
    """Until all are over; at the time `until` those that are not are ended."""
    left = list(children)
    while left and now() < until:
        left = [child for child in left if not child.over()]
        time.sleep(0.1)
    for child in left:
        child.kill()
    signal_all(args.out, signal.SIGCONT)  # whom a stage that was ended has stopped


def main(args: Gpu) -> None:
    if not (args.dry or torch.cuda.is_available()):
        sys.exit("error: no GPU here; --dry does everything at tiny sizes on a CPU")
    args.out.mkdir(parents=True, exist_ok=True)
    for path in [args.out / "gpu.jsonl", *args.out.glob("training.*")]:
        path.unlink(missing_ok=True)
    if not args.only or "ceilings" in args.only:
        wait(args, [Child(args, ["ceilings"], 0)], 60 if not args.dry else 600)
    if args.dry:
        for words, nice in plan(args):
            wait(args, [Child(args, words, nice)], now() + 600)
    else:
        wait(args, [Child(args, words, nice) for words, nice in plan(args)], args.budget - 5)
    lines = [json.loads(line) for line in (args.out / "gpu.jsonl").read_text().splitlines()]
    print(table(lines))
    sys.exit(1 if any(line["stage"] in ("failed", "out of time") or "error" in line for line in lines) else 0)


def table(lines: list[dict[str, Any]]) -> str:
    """What was timed, as Markdown."""
    head, rows = ["what", "who", "ms a step, median (min-max)", "a second", "MFU", "GiB"], []
    for x in lines:
        if x["stage"] in ("gpt2", "translation", "replicas", "bench") and "ms" in x:
            who = x.get("peer") or x["way"]
            what = x.get("step") or " ".join(str(x[k]) for k in ("stage", "preset", "vocabulary", "n") if k in x)
            ms = x["ms"] if isinstance(x["ms"], float) else "{} ({}-{})".format(*x["ms"])
            rate = x.get("tokens_per_second") or x.get("points_per_second") or f"ratio {x.get('ratio')}"
            rows.append([what, who, str(ms), str(rate), str(x.get("mfu", "")), str(x.get("gib", ""))])
    return measure.markdown(head, rows)


if __name__ == "__main__":
    words = sys.argv[1:]
    at = words.index(STAGE) if STAGE in words else len(words)  # a stage's words may look like flags
    flags = tyro.cli(Gpu, description=__doc__, args=words[:at])
    if words[at:]:
        name, *words = json.loads(words[at + 1])
        try:
            STAGES[name](flags, *words)
        except Exception as error:
            emit(flags, "failed", child=" ".join([name, *words]), error=f"{type(error).__name__}: {str(error)[:500]}")
            raise
    else:
        main(flags)
