"""Every experiment on a pretended GPU (tests/pretend.py): what it computes stays there, and no step waits for it."""

import numpy as np
import pytest
import torch

from experiments import exp_smollm_chat as chat
from lib import checkpoint, random, run, tree
from lib.models import gpt, smollm
from lib.tasks import composer, diffuser, judge, pianist, writing
from tests import pretend
from tests import test_exact as exact
from tests.test_smollm import byte_pairs

few_pictures, few_faces, small_gpt2 = exact.few_pictures, exact.few_faces, exact.small_gpt2  # its fixtures
STEPS = 3
TINY = {**exact.COMMON, "device": "cuda", **dict.fromkeys(("steps", "save_every", "log_every", "eval_every"), STEPS)}
# Words of `sample`, several times where it does different things.
USES = {
    "assistant": [["what is 23*55+123", "--sure", 0.999]],  # it asks back: no tool has data here
    "autoencoder": [["reconstruct", 0, 1], ["way", 0, 1], ["decode", 0.5, 0.5]],
    "bert-entities": [["Ann leaves Rome"]],
    "bert-sentiment": [["this [MASK] is good"]],
    "cgan": [["--n", 2], ["way", 0, 1], ["combine", "--plus", 0, 1]],
    "classifier-cnn": [[1]],
    "classify": [["The film is good."]],
    "cyclegan": [["--n", 2]],
    "dcgan": [["--n", 2], ["way", 0, 1]],
    "diffusion": [["--n", 2, "--steps", 2], ["way", 0, 1], ["inpaint", 0, "--steps", 2], ["likelihood", 0]],
    "gan-curve": [["--n", 3]],
    "gan-fashion": [["--n", 2], ["--n", 2, "--label", "bag"]],
    "gan-multiples": [["--n", 3]],
    "gpt": [["The", "--n", 3]],
    "gpt2": [["The", "--n", 3]],
    "lstm": [["The", "--n", 3]],
    "mixture": [["--n", 3], ["score", 0.5, 0.5]],
    "musegan": [["--n", 2], ["way"], ["vary"]],
    "music": [["--n", 2, "--bars", 1], ["harmonise", 0], ["fill", 0, "--bars", 1, 1], ["likelihood", 0]],
    "piano": [["--n", 2, "--seconds", 0.3], ["continue", 0, "--given", 1, "--seconds", 0.3], ["likelihood", 0]],
    "text2image": [
        ["--n", 2, "--steps", 2],
        ["words", "--steps", 2],
        ["edit", 0, "--after", "a flower with blue petals", "--steps", 2],
        ["describe", 0],
    ],
    "transformer": [["The cat."], ["The cat.", "--beam", 2], ["A", "--temperature", 1]],
    "vae": [["--n", 2], ["reconstruct", 0], ["change", 0, "--add", "glasses"]],
}


@pytest.fixture
def gpu(monkeypatch):
    """The device. It is told when a step begins and when it is over. Between two steps it is left alone, but for the
    first, which is waited for to tell its time."""
    compile = run.Run.compile

    def compiled(self, *args, **fixed):
        update, start = compile(self, *args, **fixed), self.step

        def launched(*rest):
            with device.step():
                found = update(*rest)
            if not start < self.step < self.args.steps - 1:
                device.part = "elsewhere"
            return found

        return launched

    monkeypatch.setattr(run.Run, "compile", compiled)
    monkeypatch.setattr(writing, "SHOWN", 3)
    monkeypatch.setattr(composer, "BARS", 2)
    monkeypatch.setattr(pianist, "GIVEN", 1.0)
    monkeypatch.setattr(pianist, "PLAYED", 0.5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of tiny operations: two threads that share a core take ten times as long
    with pretend.cuda() as device, torch.compiler.set_stance("force_eager"):
        yield device
    torch.set_num_threads(threads)


def faults(gpu):
    """What a GPU would refuse, and where it would be waited for in a step or between two."""
    parts = {"mixed": ("step", "between", "elsewhere"), "wait": ("step", "between"), "copy": ("step",)}
    found = [note for note in gpu.notes if note.part in parts[note.kind]]
    return "".join(f"\n{note}" for note in sorted(set(found)))


@pytest.mark.parametrize("name", USES)
def test_an_experiment(
    name,
    gpu,
    call,
    monkeypatch,
    few_pictures,
    few_faces,
    small_gpt2,
    sentences,
    story,
    films,
    tiny_llama,
    tagged,
    songs,
    recital,
):
    exp, flags = exact.SETTINGS[name]
    needs = {
        "transformer": {"data": sentences}, "gan-fashion": {"extractor": few_pictures}, "gpt": {"data": story},
        "gpt2": {"data": story}, "lstm": {"data": story}, "classify": {"data": films, "weights": tiny_llama},
        "bert-sentiment": {"data": films, "pretrain_steps": 1}, "bert-entities": {"data": tagged},
        "music": {"data": songs}, "piano": {"data": recital}, "musegan": {"data": songs},
    }  # fmt: skip
    for recipe in ("FACES", "OTHERS"):
        monkeypatch.setattr(judge, recipe, getattr(judge, recipe)._replace(widths=(4, 4)))
    # A jvp's zero tangents are made by autograd, beneath what pretends, on the CPU, as no GPU's would be.
    monkeypatch.setattr(
        diffuser, "log_likelihood", lambda denoise, x, levels, key: denoise(x, levels[0]).sum((1, 2, 3))
    )
    monkeypatch.setattr(exact.autoencoder, "range", lambda *of: range(*of)[:3], raising=False)  # its probe's 300 steps
    status, _, err = call(exp, *exact.to_flags(**{**TINY, **flags, **needs.get(name, {})}, run="run"))
    assert status == 0, err
    status, _, err = call(exp, "--resume", "--run", "run", "--steps", STEPS + 2)
    assert status == 0, err
    for words in USES[name]:
        status, _, err = call(exp, "sample", *words, "--run", "run")
        assert status == 0, err
    if found := faults(gpu):
        pytest.fail(found, pytrace=False)


def test_a_released_model_that_talks(gpu, call, monkeypatch, story):
    tokenizer = byte_pairs()
    tokenizer.encode_special_tokens = True
    block = {"width": 16, "heads": 4, "kv_heads": 2, "ff": 24, "eps": 1e-5, "rotary_base": 1e4}
    cfg = smollm.config(vocabulary=tokenizer.get_vocab_size(), context=256, layers=1, **block)
    params = gpt.init(random.key(0), cfg)

    def load(weights, data_dir=None, device="cpu"):
        return smollm.Released(tree.to(params, device), cfg, tokenizer)

    monkeypatch.setattr(smollm, "load", load)
    monkeypatch.setattr(chat, "QUESTIONS", chat.QUESTIONS[:1])
    words = ["--weights", "tiny", "--scored", 20, "--precision", "fp32", "--data", story, "--run", "run"]
    status, _, err = call(chat, *words)
    assert status == 0, err
    status, _, err = call(chat, "sample", "Is it?", "--run", "run", "--n", 3)
    assert status == 0, err
    if found := faults(gpu):
        pytest.fail(found, pytrace=False)


# ---- what would be found ----

CUDA = {"device": "cuda"}
# What a step does, and the note that is taken of it.
FAULTS = {
    "two devices": (lambda x: x + torch.ones(4), "mixed: aten::add: (4,) on the CPU"),
    "stacked with a number": (lambda x: torch.stack([x.sum(), torch.zeros(())]), "mixed: aten::stack: () on the CPU"),
    "written to the host": (lambda x: torch.zeros(4).add_(x), "mixed: aten::add_: (4,) on the CPU"),
    "the host's indexed": (lambda x: torch.ones(4)[x.long()], "mixed: aten::index of a CPU tensor with the device's"),
    "numpy": (lambda x: x.numpy(), "mixed: numpy() of the device's tensor"),
    "as an array": (lambda x: np.asarray(x), "mixed: numpy() of the device's tensor"),
    "a number": (lambda x: float(x[0]), "wait: local_scalar_dense"),
    "a condition": (lambda x: bool(x[0] > 2), "wait: local_scalar_dense"),
    "a list": (lambda x: x.tolist(), "wait: tolist"),
    "to the host": (lambda x: x.cpu(), "wait: from the device"),
    "a mask": (lambda x: x[x > 1], "wait: an index that is a mask"),
    "nonzero": (lambda x: x.nonzero(), "wait: nonzero"),
    "equal": (lambda x: torch.equal(x, x), "wait: equal"),
    "a new number": (lambda x: torch.tensor(1.0, **CUDA), "copy: tensor on the device"),
    "a number as a tensor": (lambda x: torch.as_tensor(1.0, **CUDA), "copy: to the device"),
    "a tensor of the host's": (lambda x: torch.ones(4).to(x), "copy: to the device"),
    "an index of the host's": (lambda x: x[torch.arange(2)], "copy: an index of the host's"),
}  # fmt: skip
FINE = {
    "arithmetic": lambda x: (x * 2 + torch.tensor(1.0)).sum(),
    "made there": lambda x: torch.zeros(4, **CUDA) + torch.arange(4, **CUDA) + torch.full((), 2.0, **CUDA),
    "a mask that is filled": lambda x: x.clone().masked_fill_(x > 1, 0.0).index_put_((x > 2,), x.new_ones(())),
    "a gradient": lambda x: torch.func.grad(lambda y: (y * y).sum())(x),
    "batched": lambda x: torch.func.vmap(lambda y: y * torch.ones(3, **CUDA))(x),
    "one of ten": lambda x: torch.nn.functional.one_hot(x.long(), 10),
    "to where it is": lambda x: x.to("cuda").to(torch.float64).to(x),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name, gpu):
    act, told = FAULTS[name]
    x = torch.arange(4.0, **CUDA)
    assert x.device == torch.device("cuda", 0) and x.is_cuda and not x.is_cpu
    gpu.notes.clear()
    with gpu.step():
        act(x)
    [note] = gpu.notes
    assert f"{note.kind}: {note.what}" == told and note.part == "step"
    assert note.where.startswith("tests/test_pretend_cuda.py:")


@pytest.mark.parametrize("name", FINE)
def test_what_a_step_may_do(name, gpu):
    x = torch.arange(4.0, **CUDA)
    gpu.notes.clear()
    with gpu.step():
        found = FINE[name](x)
    assert not gpu.notes and found.is_cuda
    assert torch.equal(found.cpu(), FINE[name](torch.arange(4.0, **CUDA)).cpu())


def test_nothing_is_left_of_it():
    before = torch.cuda.is_available, torch.cuda.synchronize, checkpoint.load_file
    with pytest.raises(ZeroDivisionError), pretend.cuda():
        assert torch.ones(2, **CUDA).is_cuda and checkpoint.load_file is not before[2]
        raise ZeroDivisionError
    assert (torch.cuda.is_available, torch.cuda.synchronize, checkpoint.load_file) == before
    assert torch.ones(2).device.type == "cpu" and not torch.overrides._get_current_function_mode_stack()
