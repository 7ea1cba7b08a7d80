"""What an archive says of itself, and its tensors as arrays."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import bf16, read

import delta_stream as ds
from delta_stream import _arrays


def test_an_archive_names_its_variants(shared_pair):
    archive = ds.open(shared_pair.archive)
    assert archive.variants == ["one", "two"] and len(archive) == 2
    assert archive.path == str(shared_pair.archive)
    assert [v.name for v in archive] == ["one", "two"]
    one, two = archive.metadata["variants"]
    assert (one["name"], two["method"]) == ("one", "lossless")
    assert archive.variant("one").metadata == one
    assert "one, two" in repr(archive) and "`" not in repr(archive)


def test_a_variant_names_its_tensors(shared_pair):
    variant = ds.open(shared_pair.archive).variant("one")
    assert variant.names == list(read(shared_pair.one)) and len(variant) == 7
    info = variant.info("model.layers.0.mlp.down_proj.weight")
    assert info == (info.name, "BF16", (1100, 1024), 2 * 1100 * 1024, False)
    assert variant.info("model.step").shape == ()
    assert "model.mask" in variant and "mask" not in variant
    assert [i.name for i in variant.infos if i.as_in_base and i.nbytes > 0] == [
        "model.step",
        "model.mask",
        "model.embed_tokens.weight",
    ]


@pytest.mark.parametrize("name", ["one", "two"])
def test_tensors_are_what_a_restore_writes(shared_pair, tmp_path, name):
    ds.restore(shared_pair.archive, shared_pair.base, tmp_path / "back", name=name)
    wanted = read(tmp_path / "back")
    variant = ds.open(shared_pair.archive).variant(name)
    found = dict(variant.tensors(shared_pair.base))
    assert list(found) == list(wanted)
    for tensor, (dtype, shape, data) in wanted.items():
        array = found[tensor]
        assert array.shape == shape and array.tobytes() == data, tensor
        assert array.flags.writeable and array.flags.c_contiguous
        assert variant.tensor(shared_pair.base, tensor).tobytes() == data
    if name == "two":
        assert wanted == read(shared_pair.two)


def test_safetensors_reads_the_same(shared_pair, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed, so NumPy has no BF16")
    ds.restore(shared_pair.archive, shared_pair.base, tmp_path / "back", name="one")
    loaded = safetensors.load_file(tmp_path / "back" / "model.safetensors")
    for name, array in ds.open(shared_pair.archive).variant("one").tensors(shared_pair.base):
        assert array.dtype == loaded[name].dtype and array.tobytes() == loaded[name].tobytes()


def test_resources_change_no_bit(shared_pair):
    variant = ds.open(shared_pair.archive).variant("one")
    wanted = {name: array.tobytes() for name, array in variant.tensors(shared_pair.base)}
    for how in (dict(threads=1), dict(threads=5, max_memory="1GiB"), dict(io="direct", max_memory=300 << 20)):
        assert {n: a.tobytes() for n, a in variant.tensors(shared_pair.base, **how)} == wanted
    with pytest.raises(ds.InvalidArgumentError, match="at least"):
        list(variant.tensors(shared_pair.base, max_memory="1MB"))
    with pytest.raises(ds.InvalidArgumentError, match="mmap"):
        next(variant.tensors(shared_pair.base, io="mmap"))


def test_threads_may_read_one_variant_at_once(shared_pair):
    variant = ds.open(shared_pair.archive).variant("one")
    wanted = {name: array.tobytes() for name, array in variant.tensors(shared_pair.base)}
    with ThreadPoolExecutor(4) as pool:
        read_one = lambda name: variant.tensor(shared_pair.base, name).tobytes()  # noqa: E731
        found = list(pool.map(read_one, variant.names * 4))
    assert found == [wanted[name] for name in variant.names * 4]


def test_some_tensors_in_another_order(shared_pair):
    variant = ds.open(shared_pair.archive).variant("two")
    names = ["model.step", "model.layers.0.norm.weight"]
    assert [name for name, _ in variant.tensors(shared_pair.base, names=names)] == names
    with pytest.raises(ds.InvalidArgumentError, match="no tensor nothing"):
        variant.tensors(shared_pair.base, names=["nothing"])


def test_bf16_without_ml_dtypes_is_its_bits(shared_pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    monkeypatch.setattr(_arrays, "_dtypes", {})
    variant = ds.open(shared_pair.archive).variant("two")
    array = variant.tensor(shared_pair.base, "model.layers.0.mlp.down_proj.weight")
    assert array.dtype == np.uint16 and array.dtype.metadata == {"safetensors": "BF16"}
    assert array.shape == (1100, 1024)


def test_bf16_with_ml_dtypes_is_that(shared_pair, monkeypatch):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    monkeypatch.setattr(_arrays, "_dtypes", {})
    variant = ds.open(shared_pair.archive).variant("two")
    array = variant.tensor(shared_pair.base, "model.layers.0.mlp.down_proj.weight")
    assert array.dtype == ml_dtypes.bfloat16
    assert np.array_equal(bf16(array.astype("f4")), array.view("u2"))


def test_every_dtype_has_an_array():
    for name in [*_arrays._NUMPY, *_arrays._ML_DTYPES]:
        dtype = _arrays.numpy_dtype(name)
        array = _arrays.as_numpy(np.zeros(6 * dtype.itemsize, np.uint8), name, (2, 3))
        assert array.shape == (2, 3) and array.dtype == dtype
    for name in ("F4", "F6_E2M3", "F6_E3M2"):
        array = _arrays.as_numpy(np.zeros(6, np.uint8), name, (8,))
        assert array.shape == (6,) and array.dtype.metadata == {"safetensors": name}


def test_tensors_are_decoded_as_they_are_asked_for(pair):
    pair.compress()
    variant = ds.open(pair.archive).variant("two")
    tensors = variant.tensors(pair.base)
    name, first = next(tensors)
    assert first.tobytes() == read(pair.two)[name][2]
    # The second has not been looked at: the base it needs may go.
    with (pair.base / "model.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ds.IoError):
        next(tensors)


def test_a_base_that_was_replaced_is_opened_anew(pair):
    pair.compress()
    variant = ds.open(pair.archive).variant("two")
    name = "model.layers.0.norm.weight"
    before = variant.tensor(pair.base, name)
    data = (pair.base / "model.safetensors").read_bytes()
    (pair.base / "model.safetensors").write_bytes(data + b"more")
    with pytest.raises(ds.IoError):
        variant.tensor(pair.base, name)
    (pair.base / "model.safetensors").write_bytes(data)
    assert variant.tensor(pair.base, name).tobytes() == before.tobytes()


def test_progress_counts_all_bytes(shared_pair):
    heard = []
    variant = ds.open(shared_pair.archive).variant("one")
    list(variant.tensors(shared_pair.base, progress=lambda done, total: heard.append((done, total))))
    total = sum(info.nbytes for info in variant.infos)
    assert heard == sorted(heard) and heard[-1][1] == total
    assert {of for _, of in heard} == {total}


def test_torch_has_the_same_memory(shared_pair):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    data = np.arange(16, dtype=np.uint8)
    tensor = _arrays.as_torch(data, "BF16", (2, 4))
    assert tensor.data_ptr() == data.ctypes.data and tensor.dtype == torch.bfloat16
    wanted = read(shared_pair.two)
    variant = ds.open(shared_pair.archive).variant("two")
    for name, tensor in variant.tensors(shared_pair.base, framework="torch"):
        dtype, shape, data = wanted[name]
        assert tuple(tensor.shape) == shape and tensor.dtype == _arrays.torch_dtype(dtype)
        assert tensor.flatten().view(torch.uint8).numpy().tobytes() == data, name
    with pytest.raises(ds.InvalidArgumentError, match="no dtype for F6_E2M3"):
        _arrays.as_torch(np.zeros(6, np.uint8), "F6_E2M3", (8,))


def test_torch_that_is_not_there_is_named(shared_pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    variant = ds.open(shared_pair.archive).variant("one")
    with pytest.raises(ds.InvalidArgumentError, match="not installed"):
        variant.tensors(shared_pair.base, framework="torch")
    with pytest.raises(ds.InvalidArgumentError, match="jax"):
        variant.tensors(shared_pair.base, framework="jax")


def test_errors_have_their_class_and_text(pair):
    with pytest.raises(ds.IoError, match="cannot open .*none.delta.zst") as caught:
        ds.open(pair.root / "none.delta.zst")
    assert isinstance(caught.value, (ds.DeltaStreamError,)) and isinstance(caught.value, OSError)
    (pair.root / "text").write_text("This is no archive, and long enough to be one. " * 9)
    with pytest.raises(ds.CorruptError, match="not a delta-stream archive"):
        ds.open(pair.root / "text")
    (pair.root / "short").write_bytes(b"")
    with pytest.raises(ds.TruncatedError):
        ds.open(pair.root / "short")
    pair.compress()
    archive = ds.open(pair.archive)
    with pytest.raises(ValueError, match="it holds: \"one\", \"two\""):
        archive.variant("three")
    with pytest.raises(ds.InvalidArgumentError):
        archive.variant()
    with pytest.raises(ds.MismatchError, match="is not the base this variant was made against"):
        next(archive.variant("one").tensors(pair.two))
    (pair.base / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ds.InvalidCheckpointError):
        next(archive.variant("one").tensors(pair.base))


def test_a_damaged_tensor_is_named(pair):
    pair.compress()
    data = bytearray(pair.archive.read_bytes())
    data[len(data) // 2] ^= 1
    pair.archive.write_bytes(data)
    with pytest.raises(ds.CorruptError, match="down_proj"):
        list(ds.open(pair.archive).variant("two").tensors(pair.base))
