"""compress, append and restore: options, progress, Ctrl-C."""

import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from conftest import read

import delta_stream as ds
from delta_stream import _options


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_restore_gives_the_files_back(pair):
    report = ds.compress(pair.one, pair.base, pair.archive, method="lossless", name="exact", threads=1)
    assert report["variant"] == "exact" and report["ratio"] > 1
    assert report["archive_bytes"] == pair.archive.stat().st_size
    restored = ds.restore(pair.archive, pair.base, pair.root / "back")
    assert restored["files"] == ["model.safetensors"]
    assert files(pair.root / "back") == files(pair.one)


def test_every_method_takes_its_settings(pair):
    ds.compress(pair.one, pair.base, pair.archive, name="0", quality="small", seed=3)
    given = [
        dict(bits=0.5),
        dict(ratio=4),
        dict(max_size="1.5MB"),
        dict(method="delta-dct", patch=8, allocation="2:0.5,0:0.5", rescale=False),
        dict(method="bitdelta", scale="unbiased", bit_planes=2),
        dict(method="deltadq", alpha=4, group=16, bits=3, index="in-group", parts=1),
        dict(method="ultradelta", bits=3, sparsity=0.9, step=0.02, rates="paper", clamp=True),
        dict(method="ultradelta", trace_reference=12.5, trace_of="delta", gamma_floor=0.0),
        dict(method="dare", sparsity=0.5),
        dict(method="bitdelta", base_shift="own", lambda_=0.5, eta_rule="least-squares"),
        dict(method="bitdelta", base_shift=pair.two, lambda_=0.5, eta=1.0),
        dict(method="lossless"),
        dict(include="down_proj", exclude="up", rest="base"),
    ]
    for i, settings in enumerate(given, 1):
        report = ds.append(pair.one, pair.base, pair.archive, name=str(i), **settings)
        assert report["method"] == settings.get("method", "auto")
    archive = ds.open(pair.archive)
    assert archive.variants == [str(i) for i in range(len(given) + 1)]
    seen = archive.metadata["variants"]
    assert seen[0]["seed"] == 3 and seen[5]["settings"]["bit-planes"] == "2"
    for variant in archive:
        assert [name for name, _ in variant.tensors(pair.base)] == variant.names


def test_what_is_typed_on_the_command_line_gives_the_same_bytes(pair):
    binary = os.environ.get("DELTA_STREAM") or shutil.which("delta-stream")
    if not binary:
        pytest.skip("no delta-stream command: name one in DELTA_STREAM")
    line = [binary, "compress", "--shards", pair.one, "--base", pair.base, "-o", pair.root / "b.delta.zst", "-q"]
    subprocess.run([*line, "--bits", "0.5", "--seed", "4"], check=True)
    ds.compress(pair.one, pair.base, pair.archive, bits=0.5, seed=4)
    assert pair.archive.read_bytes() == (pair.root / "b.delta.zst").read_bytes()
    line = [binary, "restore", pair.archive, "--base", pair.base, "-o", pair.root / "back", "-q"]
    subprocess.run(line, check=True)
    wanted = read(pair.root / "back")
    for name, array in ds.open(pair.archive).variant().tensors(pair.base):
        assert array.tobytes() == wanted[name][2]


@pytest.mark.parametrize(
    "settings, text",
    [
        (dict(method="zip"), "there is no method"),
        (dict(method="lossless", bits=1), "bits belongs to method auto, deltadq, ultradelta"),
        (dict(patch=8), "patch belongs to method delta-dct"),
        (dict(bits=1, ratio=3), "give one"),
        (dict(bits="one"), "expected f64"),
        (dict(nothing=1), "nothing"),
        (dict(quality="best"), "best"),
        (dict(bits=-1), "bits"),
        (dict(max_size="many"), "no size"),
        (dict(method="deltadq", bits=2.5), "whole number"),
        (dict(method="lossless", include="x"), "lossless has none"),
        (dict(eta=1.0), "belong to a base_shift"),
        (dict(parity=0.0), "parity"),
        (dict(parity="two"), "no percentage"),
        (dict(threads=0), "threads is 0"),
        (dict(name=""), "choose another with name$"),
        (dict(io="mmap"), "mmap"),
        (dict(max_memory="1MiB"), "takes at least"),
        (dict(trace_reference="all", method="ultradelta"), "trace_reference all"),
    ],
)
def test_options_that_mean_nothing_are_refused(pair, settings, text):
    with pytest.raises(ds.InvalidArgumentError, match=text):
        ds.compress(pair.one, pair.base, pair.archive, **settings)
    assert not pair.archive.exists()


def test_what_is_there_is_replaced_only_with_force(pair):
    pair.compress()
    before = pair.archive.read_bytes()
    with pytest.raises(ds.InvalidArgumentError, match="exists; .* with force=True"):
        ds.compress(pair.one, pair.base, pair.archive)
    with pytest.raises(ds.InvalidArgumentError, match="has a variant `one` already"):
        ds.append(pair.one, pair.base, pair.archive)
    with pytest.raises(ds.InvalidArgumentError, match="force"):
        ds.append(pair.one, pair.base, pair.archive, force=True)
    assert pair.archive.read_bytes() == before
    ds.compress(pair.one, pair.base, pair.archive, force=True, parity="5%")
    assert ds.open(pair.archive).variants == ["one"]
    assert (pair.root / "a.delta.zst.parity").exists()


def test_some_tensors_are_restored(pair):
    pair.compress()
    ds.restore(pair.archive, pair.base, pair.root / "back", name="two", tensors="*norm*", max_shard_size="1MB")
    assert list(read(pair.root / "back")) == ["model.layers.0.norm.weight"]


def test_progress_is_told_to_the_end(pair):
    for verb, args in ((ds.compress, (pair.one, pair.base, pair.archive)), (ds.restore, (pair.archive, pair.base, pair.root / "back"))):
        heard = []
        verb(*args, progress=lambda done, total: heard.append((done, total)))
        assert heard and heard[-1][0] == heard[-1][1] > 0


@pytest.mark.parametrize("error", [KeyError("enough"), KeyboardInterrupt()])
def test_what_the_callback_raises_ends_the_run(pair, error):
    def stop(done, total):
        raise error

    before = sorted(os.listdir(pair.root))
    with pytest.raises(type(error)):
        ds.compress(pair.one, pair.base, pair.archive, progress=stop)
    assert sorted(os.listdir(pair.root)) == before
    pair.compress()
    with pytest.raises(type(error)):
        ds.restore(pair.archive, pair.base, pair.root / "back", name="one", progress=stop)
    assert not (pair.root / "back").exists()
    variant = ds.open(pair.archive).variant("two")
    with pytest.raises(type(error)):
        list(variant.tensors(pair.base, progress=stop))


def test_what_is_no_callback_is_refused(pair):
    with pytest.raises(TypeError, match="progress"):
        ds.compress(pair.one, pair.base, pair.archive, progress=7)


def test_a_bar_is_shown(pair, capsys):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    ds.compress(pair.one, pair.base, pair.archive, progress=True)
    assert "compress" in capsys.readouterr().err


def test_a_line_is_shown_without_tqdm(pair, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    ds.compress(pair.one, pair.base, pair.archive, progress=True)
    assert capsys.readouterr().err.endswith("compress 100%\n")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A pair that takes a second or so."""
    import numpy as np
    from conftest import write

    root, draw = tmp_path_factory.mktemp("large"), np.random.default_rng(5)
    base = [(f"model.layers.{i}.mlp.up_proj.weight", "F32", draw.normal(0, 1, (1024, 4096)).astype("<f4")) for i in range(6)]
    write(root / "base" / "model.safetensors", base)
    tuned = [(n, d, a + draw.normal(0, 0.01, a.shape).astype("<f4")) for n, d, a in base]
    write(root / "one" / "model.safetensors", tuned)
    return root


def test_other_threads_run_meanwhile(large, tmp_path):
    ticks, is_done = [], threading.Event()

    def tick():
        while not is_done.wait(0.005):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        began = time.monotonic()
        ds.compress(large / "one", large / "base", tmp_path / "a.delta.zst", threads=1)
        ended = time.monotonic()
        tensors = ds.open(tmp_path / "a.delta.zst").variant().tensors(large / "base")
        next(tensors)
    finally:
        is_done.set()
        thread.join()
    inside = [t for t in ticks if began < t < ended]
    # With the lock held there would be none.
    assert len(inside) > 5, f"{len(inside)} ticks in {ended - began:.2f} s"


def test_ctrl_c_ends_a_run_without_a_callback(large, tmp_path):
    code = """
        import os, signal, sys, threading
        import delta_stream as ds
        root, out = sys.argv[1:]
        # Where the tests run in the background, the signal is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            for i in range(100):
                ds.compress(f"{root}/one", f"{root}/base", f"{out}/{i}.delta.zst", threads=1, name="v", bits=1)
        except KeyboardInterrupt:
            print("stopped in run", i)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), large, tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout.startswith("stopped in run"), run.stderr
    n = int(run.stdout.split()[-1])
    assert sorted(os.listdir(tmp_path)) == sorted(f"{i}.delta.zst" for i in range(n))


def test_sizes_have_units():
    for given, wanted in [(5, 5), ("5", 5), ("5GB", 5 * 10**9), ("1.5 KiB", 1536), ("512mib", 512 << 20), (None, None)]:
        assert _options.size(given) == wanted
    for given in ("", "GB", "-1", "5XB", "1e3"):
        with pytest.raises(ds.InvalidArgumentError):
            _options.size(given)


def test_percentages_are_what_the_command_line_takes():
    for given, wanted in [(2, 2), (0.5, 0.5), ("2%", 2.0), (" 1.5 % ", 1.5), ("7", 7.0), (None, None)]:
        assert _options.percent(given) == wanted
    for given in ("", "%", "-1%", "2%%", "1e3"):
        with pytest.raises(ds.InvalidArgumentError):
            _options.percent(given)


def test_errors_speak_of_keywords(tmp_path):
    for said, shown in [
        ("replace it with --force", "replace it with force=True"),
        ("--max-memory 1 MiB is too little", "max_memory 1 MiB is too little"),
        ("`inspect --tensors` lists them", "`inspect --tensors` lists them"),
        ("--tensor `[` is no glob", "tensors `[` is no glob"),
        ("a--force/--names: no", "a--force/--names: no"),
    ]:
        for kind in (ds.InvalidArgumentError, ds.IoError, ds.TruncatedError):
            assert str(kind(said)) == shown
    with pytest.raises(ds.IoError, match="nothing-here"):
        ds.open(tmp_path / "nothing-here")
