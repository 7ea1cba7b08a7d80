"""Models of transformers, tiny and random: what from_pretrained loads of a restore, and variants in place."""

import pytest
from test_model import bits, tune

import delta_stream as ds

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def llama(tied=False):
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=tied,
    )
    return transformers.LlamaForCausalLM(config)


def tied_llama():
    return llama(tied=True)


def mixtral():
    config = transformers.MixtralConfig(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64,
    )
    return transformers.MixtralForCausalLM(config)


def bert():
    config = transformers.BertConfig(
        vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_labels=5,
    )
    return transformers.BertForSequenceClassification(config)


def answers(model):
    """What a model says: tokens it goes on with, or scores."""
    ids = torch.arange(1, 13).reshape(2, 6)
    with torch.no_grad():
        if model.can_generate():
            return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0)
        return model(ids).logits


class Tuned:
    """A base, two fine-tunes, their archive, and what a restore of each loads as."""

    def __init__(self, make, root, dtype):
        torch.manual_seed(0)
        self.root, self.base, self.archive = root, root / "base", root / "a.delta.zst"
        model = make().to(dtype).eval()
        self.of = type(model)
        model.save_pretrained(self.base)
        for seed, name in enumerate(("one", "two"), 1):
            tune(self.load("base"), seed, by=0.02).save_pretrained(root / name)
        ds.compress(root / "one", self.base, self.archive, bits=2)
        ds.append(root / "two", self.base, self.archive, method="lossless")
        for name in ("one", "two"):
            ds.restore(self.archive, self.base, root / f"back-{name}", name=name)

    def load(self, name):
        return self.of.from_pretrained(self.root / name, dtype="auto").eval()


MODELS = [(llama, torch.bfloat16), (tied_llama, torch.float32), (mixtral, torch.bfloat16), (bert, torch.float32)]


@pytest.fixture(scope="module", params=MODELS, ids=[make.__name__ for make, _ in MODELS])
def tuned(request, tmp_path_factory):
    make, dtype = request.param
    return Tuned(make, tmp_path_factory.mktemp(make.__name__), dtype)


def test_a_restore_loads_and_answers_as_the_fine_tune(tuned):
    assert bits(tuned.load("back-two")) == bits(tuned.load("two"))
    assert torch.equal(answers(tuned.load("back-two")), answers(tuned.load("two")))
    assert bits(tuned.load("back-one")) != bits(tuned.load("base"))


def test_variants_swap_in_place(tuned):
    model, archive = tuned.load("base"), ds.open(tuned.archive)
    before, said = bits(model), answers(model)
    for name in ("one", "two", "one"):
        loaded = archive.variant(name).load_into(model, tuned.base)
        wanted = tuned.load(f"back-{name}")
        assert bits(model) == bits(wanted), name
        assert torch.equal(answers(model), answers(wanted)), name
        assert loaded.copied == [], "the model held the base, so nothing is copied"
    loaded.unload()
    assert bits(model) == before and torch.equal(answers(model), said)


def test_a_model_that_was_never_loaded_is_patched_too(tuned):
    model = tuned.of(tuned.load("base").config).to(tuned.load("base").dtype)
    before = bits(model)
    with ds.open(tuned.archive).variant("two").load_into(model, tuned.base):
        assert bits(model) == bits(tuned.load("back-two"))
    assert bits(model) == before


def test_a_model_without_its_head_takes_the_rest(tuned):
    """A checkpoint of a model with a head, in the model inside."""
    inside = getattr(transformers, type(tuned.load("base").base_model).__name__)
    kwargs = {"add_pooling_layer": True} if inside is transformers.BertModel else {}
    model = inside.from_pretrained(tuned.base, dtype="auto", **kwargs)
    before = bits(model)
    variant = ds.open(tuned.archive).variant("two")
    head = [name for name in variant.names if name.startswith(("lm_head", "classifier"))]
    if head:
        with pytest.raises(ds.InvalidArgumentError, match=head[0]):
            variant.load_into(model, tuned.base)
    with variant.load_into(model, tuned.base, strict=False):
        assert bits(model) == bits(inside.from_pretrained(tuned.root / "two", dtype="auto", **kwargs))
    assert bits(model) == before


def test_what_a_model_stores_otherwise_is_named(tuned, monkeypatch):
    """A conversion that computes has no memory to patch."""
    loading = pytest.importorskip("transformers.core_model_loading", reason="transformers before version 5")
    revert = loading.revert_weight_conversion

    def computes(model, state):
        found = revert(model, state)
        last = list(found)[-1]
        return {**found, last: found[last].clone()}

    monkeypatch.setattr(loading, "revert_weight_conversion", computes)
    model = tuned.load("base")
    with pytest.raises(ds.InvalidArgumentError, match="has no place for"):
        ds.open(tuned.archive).variant("two").load_into(model, tuned.base)
