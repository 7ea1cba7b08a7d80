"""What the README shows, and what the stubs say."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def shared(name):
    """A checkpoint of the real pair, if it is on this machine."""
    places = [os.environ.get("DELTA_STREAM_SHARED", ""), ROOT.parent.parent / "../shared"]
    found = [Path(place) / data / name for place in places if place for data in ("data", "")]
    return next((path.resolve() for path in found if path.is_dir()), None)


def test_the_ten_lines_run(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    binary = os.environ.get("DELTA_STREAM") or shutil.which("delta-stream")
    if not binary:
        pytest.skip("no delta-stream command: name one in DELTA_STREAM")
    base, ft = shared("rxnfp-base"), shared("rxnfp-ft10k")
    if not (base and ft):
        pytest.skip("the real pair is not here: set DELTA_STREAM_SHARED")
    text = (ROOT / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S).group(1)
    assert len(code.splitlines()) == 10
    (tmp_path / "base").symlink_to(base)
    (tmp_path / "ft").symlink_to(ft)
    path = f"{Path(binary).resolve().parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    said = re.search(r"prints `(.*?)`", text).group(1)
    assert run.stdout.splitlines()[0] == said


def test_types_hold():
    pytest.importorskip("mypy", reason="mypy is not installed")
    run = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_stub_is_of_the_compiled_part():
    pytest.importorskip("mypy", reason="mypy is not installed")
    run = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "delta_stream._native", "--ignore-missing-stub", "--ignore-disjoint-bases"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_everything_public_has_a_docstring():
    import inspect

    import delta_stream as ds

    names = [name for name in ds.__all__ if name not in ("__version__", "Loaded")]
    for thing in (getattr(ds, name) for name in names):
        assert thing.__doc__, thing
        members = vars(thing).items() if inspect.isclass(thing) else ()
        for name, member in members:
            if not name.startswith("_") and (callable(member) or isinstance(member, property)):
                assert member.__doc__, f"{thing.__name__}.{name}"
