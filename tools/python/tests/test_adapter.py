"""LoRA adapters of PEFT: what is merged here is what PEFT merges, but for rounding."""

import numpy as np
import pytest
from conftest import read

import delta_stream as ds

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
peft = pytest.importorskip("peft", reason="peft is not installed")

RANK, ALPHA = 8, 24
# Half the distance between two neighbouring numbers, as a share of them at most.
HALF_STEP = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


def llama(dtype):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )
    return transformers.LlamaForCausalLM(config).to(dtype).eval()


def values(tensors, name):
    """A tensor's values, exact in f64."""
    dtype, shape, data = tensors[name]
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype("f8").reshape(shape)
    return np.frombuffer(data, {"F32": "<f4"}[dtype]).astype("f8").reshape(shape)


class Trained:
    """A base, an adapter that changes it, PEFT's merge of them, and what is restored of the adapter."""

    def __init__(self, root, dtype, stabilised):
        self.root, self.dtype, self.stabilised = root, dtype, stabilised
        base, adapter, merged, restored = (root / name for name in ("base", "lora", "merged", "restored"))
        archive = root / "a.delta.zst"
        llama(dtype).save_pretrained(base)
        config = peft.LoraConfig(
            r=RANK, lora_alpha=ALPHA, use_rslora=stabilised, target_modules=["q_proj", "v_proj", "down_proj"],
            rank_pattern={"layers.1.self_attn.q_proj": 3}, alpha_pattern={r"layers\.0\..*\.down_proj": 5},
        )
        model = peft.get_peft_model(self.load(base), config)
        # A new adapter changes nothing: one of its factors is zero.
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, factor in model.named_parameters():
                if "lora_" in name:
                    factor.copy_(torch.randn(factor.shape, generator=draw) * 0.1)
        model.save_pretrained(adapter)
        peft.PeftModel.from_pretrained(self.load(base), adapter).merge_and_unload().save_pretrained(merged)
        ds.compress(adapter, base, archive, method="lossless")
        ds.restore(archive, base, restored)
        self.base, self.adapter, self.merged, self.restored = map(read, (base, adapter, merged, restored))

    def load(self, path):
        return transformers.LlamaForCausalLM.from_pretrained(path, dtype=self.dtype).eval()

    def scale(self, name):
        rank = 3 if "layers.1.self_attn.q_proj" in name else RANK
        alpha = 5 if "layers.0.mlp.down_proj" in name else ALPHA
        return rank, alpha / (rank**0.5 if self.stabilised else rank)


CASES = [(dtype, stabilised) for dtype in HALF_STEP for stabilised in (False, True)]


@pytest.fixture(scope="module", params=CASES, ids=[f"{str(d)[6:]}-{'rslora' if s else 'lora'}" for d, s in CASES])
def trained(request, tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("adapter"), *request.param)


def test_the_merge_is_that_of_peft_within_rounding(trained):
    """Each differs from the exact W + s B A by no more than its own roundings can make.

    A sum of r products in f32, in whatever order, is off by (r + 2) half steps of f32 of the sum of absolute values at
    most, its scale and the scaling counted. Here that is added to W in f32 and rounded to the base's dtype. PEFT rounds
    it to the base's dtype first, adds, and rounds again.
    """
    step, fine = HALF_STEP[trained.dtype], HALF_STEP[torch.float32]
    assert trained.restored.keys() == trained.merged.keys() == trained.base.keys()
    n_changed, worst = 0, 0.0
    for name, (dtype, shape, data) in trained.base.items():
        stem = "base_model.model." + name.removesuffix(".weight")
        assert trained.restored[name][:2] == trained.merged[name][:2] == (dtype, shape)
        if f"{stem}.lora_A.weight" not in trained.adapter:
            assert trained.restored[name][2] == trained.merged[name][2] == data, name
            continue
        n_changed += 1
        a, b = (values(trained.adapter, f"{stem}.lora_{factor}.weight") for factor in "AB")
        rank, scale = trained.scale(name)
        assert a.shape[0] == rank
        weight, product = values(trained.base, name), scale * (b @ a)
        exact, sums = weight + product, scale * (np.abs(b) @ np.abs(a))
        of_sum = (rank + 2) * fine * sums
        ours = 1.001 * (of_sum + (fine + step) * (np.abs(exact) + of_sum))
        theirs = 1.001 * (of_sum + step * (np.abs(product) + of_sum))
        theirs += 1.001 * step * (np.abs(exact) + theirs)
        got, wanted = values(trained.restored, name), values(trained.merged, name)
        assert np.all(np.abs(got - exact) <= ours), name
        assert np.all(np.abs(wanted - exact) <= theirs), name
        assert np.all(np.abs(got - wanted) <= ours + theirs), name
        worst = max(worst, float(np.max(np.abs(got - wanted) / (ours + theirs))))
        # The bound is one that another scale or a factor less would break.
        assert np.mean(np.abs(product) > 4 * (ours + theirs)) > 0.5, name
    assert n_changed == 6
    print(f"{worst:.2f} of the bound at most")


def test_what_is_restored_answers_as_what_peft_merged(trained):
    """The two differ by far less than the adapter changes the base's answers."""
    ids = torch.arange(1, 13).reshape(2, 6)

    def answers(path):
        with torch.no_grad():
            return trained.load(path)(ids).logits.double()

    base, merged, restored = map(answers, (trained.root / "base", trained.root / "merged", trained.root / "restored"))
    share = (restored - merged).norm() / (merged - base).norm()
    assert share < {torch.float32: 1e-5, torch.bfloat16: 0.1}[trained.dtype]
