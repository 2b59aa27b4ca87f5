"""lib/run/replicas.py: replica i of a run is the run that its seed and its values would make alone."""

import itertools
import json
import re
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments import exp_classifier_fashion as classifier
from experiments import exp_gan_curve as curve
from experiments import exp_transformer_fr as transformer
from lib import nn, random, run, tree
from lib.faults import RunError
from lib.run import replicas
from lib.run.replicas import Replica
from lib.transform import jit, value_and_grad

VMAPPED, LOOPED = WAYS = "one vmapped step", "one after another"
COMMON = {"compile": "off", "precision": "fp32", "device": "cpu", "log_every": 10, "save_every": 10}
TINY = {
    classifier: {"model": "mlp", "hidden": 8, "batch": 8, "steps": 20, "eval_every": 20, "dropout": 0.2},
    transformer: {
        "width": 16, "ff": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "rows": 2, "length": 24,
        "beams": 1, "vocabulary": 300, "warmup": 2, "steps": 4, "eval_every": 4, "test_sentences": 2,
    },
    curve: {"batch": 16, "generator": 8, "discriminator": 8, "steps": 4, "eval_every": 4},
}  # fmt: skip


@dataclass(frozen=True)
class Args(run.Args):
    lr: float = 0.1
    weight_decay: float = 0.0
    width: int = 4


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory and cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path / "cache"))


# ---- which replicas there are ----


def test_sweeps_and_seeds_are_crossed_in_order():
    assert replicas.replicas(Args(seed=3)) == [Replica(3, {})]
    assert replicas.replicas(Args(seed=3, replicas=2)) == [Replica(3, {}), Replica(4, {})]
    crossed = replicas.replicas(Args(replicas=2, sweep=("lr=1e-4,3e-4", "weight-decay=0,1,2")))
    expected = itertools.product((1e-4, 3e-4), (0.0, 1.0, 2.0), (0, 1))
    assert crossed == [Replica(seed, {"lr": lr, "weight_decay": decay}) for lr, decay, seed in expected]
    assert str(crossed[-1]) == "seed 1, lr 0.0003, weight_decay 2"


@pytest.mark.parametrize(
    ("sweep", "parts"),
    [
        ("lrr=1,2", ["'lrr'", "did you mean lr?"]),
        ("weight_decy=1", ["did you mean weight_decay?"]),
        ("width=4,8", ["width is 4"]),
        ("data=1,2", ["data is 'default'"]),
        ("replicas=1,2", ["replicas is 1"]),
        ("lr=1,fast", ["'1,fast'", "fast"]),
        ("lr=1,", ["'1,'"]),
        ("lr", ["not a list of numbers"]),
    ],
)
def test_sweeps_that_cannot_be_made(sweep, parts):
    Path("exp_toy.py").touch()
    with pytest.raises(RunError, match="--sweep") as error:
        run.Run(Args(sweep=(sweep,), run=Path("here")), "exp_toy", Path("exp_toy.py"))
    assert all(part in str(error.value) for part in [sweep, *parts]) and not Path("here").exists()


# ---- the step of several ----


def init_toy(key):
    k_w, k_train = random.split(key)
    return {"w": random.normal(k_w, (5,)), "none": None, "key": k_train, "step": torch.zeros((), dtype=torch.int32)}


def step_toy(state, x, target, *, args):
    """Random by the state's key, and with a hyper-parameter that can be swept."""
    key = random.fold_in(state["key"], state["step"])
    objective = value_and_grad(lambda w: (nn.dropout(w * x, 0.5, key) - target).square().mean())
    value, slope = objective(state["w"])
    return {**state, "w": state["w"] - args.lr * slope, "step": state["step"] + 1}, {"train/loss": value}


MEMBERS = [(seed, lr) for lr in (0.1, 0.5) for seed in (1, 2)]


def made(way, compiled=False, values=None):
    """`update` of the toy for the members above."""
    values = {"lr": torch.tensor([lr for _, lr in MEMBERS])} if values is None else values
    wrap = (lambda fn: jit(fn, backend="aot_eager")) if compiled else (lambda fn: fn)
    if way == VMAPPED:
        return wrap(replicas.vmapped(step_toy, Args(), values))
    return replicas.looped([wrap(partial(step_toy, args=Args(lr=lr))) for _, lr in MEMBERS])


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "aot_eager"])
@pytest.mark.parametrize("way", WAYS)
def test_a_step_of_several_is_the_step_of_each(way, compiled):
    torch._dynamo.reset()
    update, target = made(way, compiled), random.normal(random.key(7), (5,))
    alone = [init_toy(random.key(seed)) for seed, _ in MEMBERS]
    together = tree.stack(alone)
    for n in range(3):
        batches = [random.normal(random.key(10 + n + seed), (5,)) for seed, _ in MEMBERS]
        pairs = [
            step_toy(state, x, target, args=Args(lr=lr))
            for state, x, (_, lr) in zip(alone, batches, MEMBERS, strict=True)
        ]
        alone = [state for state, _ in pairs]
        together, out = update(together, torch.stack(batches), target)
        torch.testing.assert_close(out, tree.stack([out for _, out in pairs]), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(tree.leaves(together), tree.leaves(tree.stack(alone)), atol=1e-6, rtol=1e-6)
    assert len({tuple(w.tolist()) for w in together["w"]}) == len(MEMBERS)
    torch._dynamo.reset()


@pytest.mark.parametrize("way", WAYS)
def test_replicas_without_a_sweep_and_without_a_batch(way):
    """Seeds alone, of a step that makes its own examples."""

    def step(state, *, args):
        return step_toy(state, torch.ones(5), torch.zeros(5), args=args)

    start = [init_toy(random.key(seed)) for seed in (1, 2)]
    ways = {
        VMAPPED: replicas.vmapped(step, Args(), {}),
        LOOPED: replicas.looped([partial(step, args=Args())] * 2),
    }
    expected = tree.stack([step(state, args=Args())[0] for state in start])
    found, _ = ways[way](tree.stack(start))
    torch.testing.assert_close(tree.leaves(found), tree.leaves(expected), atol=1e-6, rtol=1e-6)


def test_the_faster_way_is_measured_once(monkeypatch):
    calls = []

    def way(name, seconds):
        def update(state, x):
            calls.append(name)
            time.sleep(seconds)
            return tree.map(lambda old: old.add_(x), state), {"train/loss": state["w"]}  # the state given is spent

        return update

    state = {"w": torch.zeros(2)}
    ways, cpu = {"slow": way("slow", 0.05), "quick": way("quick", 0.0)}, torch.device("cpu")
    assert replicas.faster("toy", ways, cpu, state, torch.tensor(1.0)) == "quick"
    assert set(calls) == {"slow", "quick"} and state["w"].tolist() == [0, 0]
    record = json.loads(Path("cache", "replicas.json").read_text())
    assert record["toy"]["slow"] > 0.04 > record["toy"]["quick"]
    calls.clear()
    assert replicas.faster("toy", ways, cpu, state, torch.tensor(1.0)) == "quick" and not calls
    replicas.faster("another", ways, cpu, state, torch.tensor(1.0))
    assert calls and json.loads(Path("cache", "replicas.json").read_text()).keys() == {"toy", "another"}
    monkeypatch.setattr(replicas.machine, "free_memory", lambda device: -1)
    assert replicas.faster("full", ways, cpu, state, torch.tensor(1.0)) == "slow"  # the other would need more memory


@pytest.mark.parametrize(("free", "most"), [(1000, "at most 8 do"), (180, "not even one does"), (None, None)])
def test_replicas_that_do_not_fit(monkeypatch, free, most):
    monkeypatch.setattr(replicas.machine, "free_memory", lambda device: free)
    state, cpu = {"w": torch.zeros(25)}, torch.device("cpu")  # 100 bytes, and two more for gradients and the new state
    if most is None or "at most 8" in most:
        replicas.check_memory(8, state, cpu)
    if most:
        with pytest.raises(RunError, match=f"9 replicas of 0.0 MiB do not fit in .*: {most}"):
            replicas.check_memory(9, state, cpu)


# ---- whole runs ----


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of two labels, some sixty different ones each: bars that lie and bars that stand."""
    path = tmp_path_factory.mktemp("pictures")
    for name in ("lying", "standing"):
        (path / name).mkdir()
    for at, width in itertools.product(range(2, 22), (2, 4, 6)):
        picture = torch.zeros(28, 28, dtype=torch.uint8)
        picture[at : at + width, 3:25] = 200 + at
        for name, pixels in (("lying", picture), ("standing", picture.T.contiguous())):
            Image.fromarray(pixels.numpy()).save(path / name / f"{at}-{width}.png")
    return path


@pytest.fixture
def call(call, pictures, sentences):
    """Trains an experiment as its command line does, unless the words say "sample"; status, output and error output."""

    def main(exp, *words, **values):
        if words[:1] != ("sample",) and "--resume" not in words:
            data = {classifier: {"data": pictures}, transformer: {"data": sentences}}.get(exp, {})
            values = {**COMMON, **TINY[exp], **data, **values}
        flags = [word for k, v in values.items() for word in (f"--{k.replace('_', '-')}", *str(v).split())]
        return call(exp, *words, *flags)

    return main


@pytest.fixture
def by(monkeypatch):
    """Decides which way replicas take."""
    return lambda way: monkeypatch.setattr(replicas, "faster", lambda name, ways, *_: {w: w for w in ways}[way])


def saved(path, n):
    return load_file(Path(path, "checkpoints", f"step-{n}.safetensors"))


def scalars(path):
    found = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    return {tag: {e.step: e.value for e in found.Scalars(tag)} for tag in found.Tags()["scalars"]}


def assert_replica_is(path, i, single, n):
    """Replica i of a run ends where a run of its own ends."""
    stacked, alone = saved(path, n), saved(single, n)
    assert stacked.keys() == alone.keys()
    for name, x in alone.items():
        torch.testing.assert_close(stacked[name][i], x, atol=1e-5, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("way", WAYS)
def test_seeds_as_a_user(call, by, way):
    by(way)
    status, _, err = call(classifier, run="both", replicas=2)
    assert status == 0 and f"2 replicas: {way}" in err and "Traceback" not in err
    for i in range(2):
        assert f"replica {i} (seed {i}): step 20: held-out accuracy" in err
        assert call(classifier, run=f"alone-{i}", seed=i)[0] == 0
        assert_replica_is("both", i, f"alone-{i}", 20)
    assert not torch.equal(*saved("both", 20)["params.0.w"])


def test_a_sweep_as_a_user(call, by):
    """Two learning rates of two seeds each: what is trained, shown, printed and stored."""
    by(VMAPPED)
    members = [(seed, lr) for lr in ("1e-3", "1e-2") for seed in (0, 1)]
    status, out, err = call(classifier, run="all", replicas=2, sweep="lr=1e-3,1e-2", schedule="constant")
    assert status == 0 and "4 replicas: " in err
    for i, (seed, lr) in enumerate(members):
        assert call(classifier, run=f"alone-{i}", seed=seed, lr=lr, schedule="constant")[0] == 0
        assert_replica_is("all", i, f"alone-{i}", 20)

    mean, each, alone = scalars("all"), *(
        [scalars(Path(path.format(i))) for i in range(4)] for path in ("all/replica-{}", "alone-{}")
    )  # fmt: skip
    tags = {"train/loss", "train/accuracy", "grad/norm", "val/loss", "val/accuracy"}
    assert mean.keys() == tags | {f"{tag}_sd" for tag in tags} | {"perf/images_per_second", "final/test/accuracy"}
    for tag in tags:
        assert all(one.keys() == tags for one in each) and all(one[tag].keys() == mean[tag].keys() for one in each)
        for n in mean[tag]:
            values = torch.tensor([one[tag][n] for one in each])
            torch.testing.assert_close(values, torch.tensor([one[tag][n] for one in alone]), atol=1e-4, rtol=1e-4)
            assert mean[tag][n] == pytest.approx(float(values.mean()), rel=1e-4)
            assert mean[f"{tag}_sd"][n] == pytest.approx(float(values.std()), rel=1e-3, abs=1e-5)

    result = json.loads(Path("all", "result.json").read_text())
    best = min(range(4), key=lambda i: each[i]["val/loss"][20])
    assert result["best"] == best and len(result["all"]) == 4
    assert result["test/accuracy"] == result["all"][best]["test/accuracy"]
    for i, values in enumerate(result["all"]):
        assert values == json.loads(Path(f"alone-{i}", "result.json").read_text())
    seed, lr = members[best]
    assert f"best of 4 by val/loss: seed {seed}, lr {float(lr):g}\n" in out
    for lr, part in (("0.001", result["all"][:2]), ("0.01", result["all"][2:])):
        values = torch.tensor([x["test/accuracy"] for x in part])
        row = re.search(rf"^lr {lr} mean ± sd, n = 2 +(\S+) ± (\S+)$", out, flags=re.MULTILINE)
        assert float(row[1]) == pytest.approx(float(values.mean()), abs=0.01)
        assert float(row[2]) == pytest.approx(float(values.std()), abs=0.01)
    assert len(re.findall(r"^seed [01], lr 0\.01? +", out, flags=re.MULTILINE)) >= 2


def test_a_run_of_several_is_used_by_its_best(call, by):
    by(LOOPED)
    assert call(classifier, run="all", replicas=2, sweep="lr=1e-5,1e-2", seed=5)[0] == 0
    best = json.loads(Path("all", "result.json").read_text())["best"]
    assert best >= 2  # the larger learning rate
    args = run.load_config(Path("all"), classifier.Args)
    found = run.load(Path("all"), classifier.init_state(random.key(0), args, 2))
    for name, x in tree.flatten(found).items():
        assert torch.equal(x, saved("all", 20)[name][best]), name
    part = run.load(Path("all"), found.params, "params")
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(part), tree.leaves(found.params), strict=True))
    assert call(classifier, run="alone", seed=5 + best % 2, lr="1e-2")[0] == 0
    status, out, _ = call(classifier, "sample", run="all")
    assert status == 0 and out == call(classifier, "sample", run="alone")[1]


@pytest.mark.parametrize("way", WAYS)
def test_replicas_resumed_are_the_replicas_bit_for_bit(call, by, way):
    by(way)
    assert call(classifier, run="straight", replicas=2, sweep="lr=1e-3,1e-2")[0] == 0
    shutil.copytree("straight", "again")
    Path("again", "checkpoints", "step-20.safetensors").unlink()
    Path("again", "result.json").unlink()
    assert call(classifier, "--resume", run="again")[0] == 0
    ours, theirs = saved("again", 20), saved("straight", 20)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert Path("again", "result.json").read_text() == Path("straight", "result.json").read_text()
    for part in ("", "replica-0", "replica-3"):
        a, b = scalars(Path("again", part)), scalars(Path("straight", part))
        assert a.keys() == b.keys() and all(a[tag] == b[tag] for tag in a if not tag.startswith("perf/"))
    status, _, err = call(classifier, "--resume", run="again", replicas=3)
    assert status == 1 and "replicas: 2 -> 3" in err


@pytest.mark.parametrize(
    ("exp", "more"),
    [
        (transformer, {}),
        (transformer, {"ema_decay": 0.9, "dropout": 0.2}),
        (curve, {}),
        (curve, {"points": 30, "dropout": 0.3, "r1": 0.0}),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_replica_1_is_the_run_of_seed_1(call, by, exp, more, way):
    by(way)
    status, _, err = call(exp, run="both", replicas=2, **more)
    assert status == 0, err
    assert call(exp, run="alone", seed=1, **more)[0] == 0
    assert_replica_is("both", 1, "alone", 4)
    status, out, _ = call(exp, "sample", "--run", "both", *(["--text", "The cat."] if exp is transformer else []))
    assert status == 0 and out


# ---- what goes wrong ----


def test_a_replica_that_diverges_is_left_out(call, by):
    by(VMAPPED)
    status, out, err = call(curve, run="here", sweep="lr=1e-3,1e30", steps=9, log_every=1, save_every=3)
    lost = re.search(
        r"replica 1 \(seed 0, lr 1e\+30\) is left out from here on: (the loss .* is (nan|inf) at step \d)", err
    )
    assert status == 0 and lost, err
    assert err.count("left out") == 1 and f"seed 0, lr 1e+30: {lost[1]}" in out
    assert "NaN" not in Path("here", "metrics.jsonl").read_text()
    result = json.loads(Path("here", "result.json").read_text())
    assert result["best"] == 0 and result["all"][1] is None and result["all"][0]["inside"] == result["inside"]
    assert call(curve, "sample", "--run", "here", "--n", 3)[0] == 0
    Path("here", "result.json").unlink()
    status, out, err = call(curve, "--resume", "--run", "here")
    assert status == 0 and f"seed 0, lr 1e+30: {lost[1]}" in out  # known from the checkpoint


def test_no_replica_that_does_not_diverge(call, by):
    by(VMAPPED)
    status, _, err = call(curve, run="here", sweep="lr=1e29,1e30", steps=9, log_every=1, save_every=1)
    assert status == 1 and re.search(r"error: the loss .* is (nan|inf) at step \d; last good checkpoint: ", err)


def test_no_replicas(call):
    status, _, err = call(curve, run="here", replicas=0)
    assert status in (1, 2) and "replicas" in err


def test_resuming_a_run_that_has_arrived_keeps_its_best(call, by):
    by(LOOPED)
    assert call(classifier, run="all", replicas=2, sweep="lr=1e-5,1e-2", seed=5)[0] == 0
    before = json.loads(Path("all", "result.json").read_text())
    Path("all", "result.json").unlink()  # killed just before it was done
    assert call(classifier, "--resume", run="all")[0] == 0
    assert json.loads(Path("all", "result.json").read_text()) == before


SWEEPS = [
    (classifier, "weight_decay=0.05,0.1"), (classifier, "dropout=0.1,0.2"), (classifier, "smoothing=0.1,0.2"),
    (transformer, "clip=0.5,1"), (transformer, "ema_decay=0.5,0.9"), (curve, "r1=0.1,0.2"), (curve, "slope=0.1,0.2"),
]  # fmt: skip


@pytest.mark.parametrize(("exp", "sweep"), SWEEPS)
def test_what_else_can_be_swept(call, exp, sweep):
    """Trains like a run of its own, or says in one line that it cannot."""
    status, _, err = call(exp, run="both", sweep=sweep)
    name, value = sweep.split("=")
    if status == 0:
        assert call(exp, run="alone", **{name: value.split(",")[1]})[0] == 0
        assert_replica_is("both", 1, "alone", TINY[exp]["steps"])
    else:
        assert status in (1, 2) and name in err


@pytest.mark.parametrize("keep", ["all", "best"])
def test_what_is_kept(call, by, keep):
    """--keep best leaves the run that the best replica would have been alone: config, checkpoint, resume and sample."""
    by(LOOPED)
    assert call(classifier, run="several", replicas=2, sweep="lr=1e-5,1e-2", seed=5, keep=keep)[0] == 0
    stored = json.loads(Path("several", "config.json").read_text())
    assert stored["replicas"] == (2 if keep == "all" else 1)
    assert call(classifier, "sample", "--run", "several", 0)[0] == 0
    if keep == "best":
        assert stored["sweep"] == [] and stored["seed"] in (5, 6) and stored["lr"] == 1e-2
        assert call(classifier, run="alone", seed=stored["seed"], lr=1e-2)[0] == 0
        ours, alone = (saved(name, TINY[classifier]["steps"]) for name in ("several", "alone"))
        assert all(torch.equal(ours[k], alone[k]) for k in alone)
        assert call(classifier, "--resume", run="several", steps=TINY[classifier]["steps"] + 2)[0] == 0
