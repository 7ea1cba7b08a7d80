"""Variants on live torch models: what a restore loads, in place, and off again bit for bit."""

import gc
import weakref

import numpy as np
import pytest
from conftest import write

import delta_stream as ds

torch = pytest.importorskip("torch", reason="torch is not installed")


def bits(model):
    """The bytes of everything a model has, by its own names."""
    return {name: value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() for name, value in model.state_dict().items()}


class Small(torch.nn.Module):
    """A model that is not of transformers, with tied weights and a buffer."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed = torch.nn.Embedding(32, 16)
        self.up_proj = torch.nn.Linear(16, 64)
        self.down_proj = torch.nn.Linear(64, 16)
        self.head = torch.nn.Linear(16, 32, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, ids):
        return self.head(self.down_proj(torch.relu(self.up_proj(self.embed(ids)))) * self.scale)


_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}


def save(model, directory, but=()):
    tensors = []
    for name, value in model.state_dict().items():
        if name not in but:
            width = {1: "u1", 2: "<u2", 4: "<u4", 8: "<u8"}[value.element_size()]
            data = value.contiguous().flatten().view(torch.uint8).numpy().view(width).reshape(tuple(value.shape))
            tensors.append((name, _NAMES[value.dtype], data))
    write(directory / "model.safetensors", tensors)


def tune(model, seed, by=0.01):
    """Moves every matrix a little."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.add_(torch.randn_like(parameter) * by)
    return model


@pytest.fixture
def small(tmp_path):
    save(Small(), tmp_path / "base")
    save(tune(Small(), 1), tmp_path / "one")
    save(tune(Small(), 2), tmp_path / "two")
    ds.compress(tmp_path / "one", tmp_path / "base", tmp_path / "a.delta.zst", bits=2)
    ds.append(tmp_path / "two", tmp_path / "base", tmp_path / "a.delta.zst", method="lossless")
    return tmp_path


def restored(root, name):
    """A model with the weights that a restore writes."""
    model = Small()
    for tensor, array in ds.open(root / "a.delta.zst").variant(name).tensors(root / "base", framework="torch"):
        model.state_dict()[tensor].copy_(array)
    return model


def test_a_variant_is_put_on_and_taken_off(small):
    model, archive = Small(), ds.open(small / "a.delta.zst")
    before, where = bits(model), {n: p.data_ptr() for n, p in model.named_parameters()}
    ids = torch.arange(8)
    answer = model(ids)
    heard = []
    loaded = archive.variant("one").load_into(model, small / "base", progress=lambda *done: heard.append(done))
    assert bits(model) == bits(restored(small, "one")) and bits(model) != before
    assert torch.equal(model(ids), restored(small, "one")(ids))
    assert heard[-1][0] == heard[-1][1] > 0
    assert loaded.is_loaded and loaded.variant.name == "one" and "scale" not in loaded.names
    # In place: nobody who has the parameters need be told.
    assert {n: p.data_ptr() for n, p in model.named_parameters()} == where
    assert loaded.copied == [], "nothing of the base was copied"
    loaded.unload()
    assert bits(model) == before and torch.equal(model(ids), answer)
    assert not loaded.is_loaded
    loaded.unload()
    assert bits(model) == before


def test_variants_swap_on_one_base(small):
    model, archive = Small(), ds.open(small / "a.delta.zst")
    before = bits(model)
    one = archive.variant("one").load_into(model, small / "base")
    two = archive.variant("two").load_into(model, small / "base")
    assert bits(model) == bits(restored(small, "two"))
    assert two.is_loaded and not one.is_loaded
    one.unload()
    assert bits(model) == bits(restored(small, "two"))
    archive.variant("one").load_into(model, small / "base", check=False)
    assert bits(model) == bits(restored(small, "one"))
    ds.unload(model)
    assert bits(model) == before
    ds.unload(model)
    with archive.variant("two").load_into(model, small / "base") as loaded:
        assert bits(model) == bits(restored(small, "two")) and "two" in repr(loaded)
    assert bits(model) == before


def test_the_base_may_be_named_otherwise(small):
    model, archive = Small(), ds.open(small / "a.delta.zst")
    before = bits(model)
    archive.variant("one").load_into(model, small / "base")
    second = archive.variant("two").load_into(model, small / "base" / "model.safetensors")
    assert bits(model) == bits(restored(small, "two"))
    second.unload()
    assert bits(model) == before


def test_what_is_not_the_bases_comes_back_too(small):
    model, archive = Small(), ds.open(small / "a.delta.zst")
    with torch.no_grad():
        model.up_proj.weight[0, 0] = float("nan")
        model.scale.fill_(3.0)
    before = bits(model)
    with archive.variant("one").load_into(model, small / "base") as loaded:
        assert bits(model) == bits(restored(small, "one"))
        assert sorted(loaded.copied) == ["scale", "up_proj.weight"]
        archive.variant("two").load_into(model, small / "base")
        assert bits(model) == bits(restored(small, "two"))
        ds.unload(model)
        assert bits(model) == before
    assert bits(model) == before


def test_what_comes_back_is_from_the_base_that_was_there(small):
    """Two archives of two bases, one after the other under one name."""
    save(tune(Small(), 3), small / "other")
    save(tune(tune(Small(), 3), 4), small / "three")
    ds.compress(small / "three", small / "other", small / "b.delta.zst", method="lossless")
    model = Small()
    before = bits(model)
    ds.open(small / "a.delta.zst").variant("two").load_into(model, small / "base")
    (small / "base").rename(small / "first")
    (small / "other").rename(small / "base")
    loaded = ds.open(small / "b.delta.zst").variant().load_into(model, small / "base")
    assert bits(model) == bits(tune(tune(Small(), 3), 4))
    loaded.unload()
    assert bits(model) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_may_have_another_dtype(small, dtype):
    model = Small().to(dtype)
    before = bits(model)
    with ds.open(small / "a.delta.zst").variant("two").load_into(model, small / "base") as loaded:
        assert bits(model) == bits(restored(small, "two").to(dtype))
        assert loaded.copied == []
    assert bits(model) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_model_may_be_on_a_gpu(small):
    model = Small().to("cuda", torch.bfloat16)
    before = bits(model)
    with ds.open(small / "a.delta.zst").variant("two").load_into(model, small / "base") as loaded:
        assert bits(model) == bits(restored(small, "two").to(torch.bfloat16))
        assert loaded.copied == []
    assert bits(model) == before


def test_parameters_made_for_inference_are_patched(small):
    with torch.inference_mode():
        model = Small()
    before = bits(model)
    with ds.open(small / "a.delta.zst").variant("two").load_into(model, small / "base"):
        assert bits(model) == bits(restored(small, "two"))
    assert bits(model) == before


def test_gradients_see_the_change(small):
    model = Small()
    output = model.up_proj(torch.ones(16, requires_grad=True))
    with ds.open(small / "a.delta.zst").variant("two").load_into(model, small / "base"):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()


def test_what_does_not_fit_is_refused(small):
    variant = ds.open(small / "a.delta.zst").variant("one")
    model = Small()
    del model.up_proj
    with pytest.raises(ds.InvalidArgumentError, match="no place for up_proj.weight, up_proj.bias"):
        variant.load_into(model, small / "base")
    before = bits(model)
    with variant.load_into(model, small / "base", strict=False):
        assert bits(model) != before
    assert bits(model) == before
    with pytest.raises(ds.InvalidArgumentError, match="no place"):
        variant.load_into(torch.nn.Linear(2, 2), small / "base", strict=False)
    model = Small()
    model.up_proj = torch.nn.Linear(16, 63)
    with pytest.raises(ds.InvalidArgumentError, match=r"up_proj.weight is \(63, 16\) in the model"):
        variant.load_into(model, small / "base")
    for dtype in (torch.int8, torch.float8_e4m3fn):
        model = Small()
        model.scale = model.scale.to(dtype)
        with pytest.raises(ds.InvalidArgumentError, match="scale is .* quantised"):
            variant.load_into(model, small / "base")
    with pytest.raises(ds.InvalidArgumentError, match="meta device"):
        variant.load_into(Small().to("meta"), small / "base")
    with pytest.raises(ds.MismatchError):
        variant.load_into(Small(), small / "two")


def test_a_failure_leaves_what_was_there(small):
    model, archive = Small(), ds.open(small / "a.delta.zst")
    before = bits(model)

    class Enough(Exception):
        pass

    def fail_after(n):
        calls = []

        def progress(done, total):
            calls.append(done)
            if len(calls) > n:
                raise Enough

        return progress

    for n in range(0, 6, 2):
        with pytest.raises(Enough):
            archive.variant("one").load_into(model, small / "base", progress=fail_after(n))
        assert bits(model) == before
        loaded = archive.variant("two").load_into(model, small / "base")
        with pytest.raises(Enough):
            archive.variant("one").load_into(model, small / "base", progress=fail_after(n))
        # Half of each would be neither.
        assert bits(model) == before and not loaded.is_loaded


def test_a_damaged_archive_changes_nothing(small):
    data = bytearray((small / "a.delta.zst").read_bytes())
    model, before = Small(), bits(Small())
    variant = ds.open(small / "a.delta.zst").variant("two")
    data[len(data) * 3 // 4] ^= 1
    (small / "a.delta.zst").write_bytes(data)
    with pytest.raises(ds.CorruptError):
        variant.load_into(model, small / "base")
    assert bits(model) == before


def test_a_model_is_not_kept_alive(small):
    model = Small()
    loaded = ds.open(small / "a.delta.zst").variant("two").load_into(model, small / "base")
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None and not loaded.is_loaded
    loaded.unload()


def test_a_new_head_is_copied_and_comes_back(tmp_path):
    """A base without a head, and one of another shape."""
    save(Small(), tmp_path / "base", but=("head.weight", "down_proj.bias"))
    tuned = tune(Small(), 1)
    with torch.no_grad():
        tuned.down_proj.bias.add_(1)
    save(tuned, tmp_path / "one", but=("head.weight",))
    ds.compress(tmp_path / "one", tmp_path / "base", tmp_path / "a.delta.zst", method="lossless")
    model = Small(9)
    with torch.no_grad():
        for name, value in Small().state_dict().items():
            if name != "down_proj.bias":
                model.state_dict()[name].copy_(value)
    before = bits(model)
    with ds.open(tmp_path / "a.delta.zst").variant().load_into(model, tmp_path / "base") as loaded:
        assert bits(model) == bits(tuned) and loaded.copied == ["down_proj.bias"]
    assert bits(model) == before
