#!/usr/bin/env python3
"""Builds the package in an environment of its own and runs its tests: python3 check.py [--torch].

Says so and ends well where nothing can be installed. With --torch PyTorch, transformers and PEFT are installed too,
some gigabytes; without it they are used where this Python has them. The tests skip what needs a package that is not
there.
"""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).parent.resolve()
NEEDED = ["maturin>=1.5,<2", "pytest", "numpy"]
WANTED = ["safetensors", "ml_dtypes", "tqdm", "mypy"]
LARGE = ["torch", "transformers", "peft"]


def pip(python, *packages):
    """Whether these packages are there now."""
    line = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    return subprocess.run(line).returncode == 0


def skip(why):
    print(f"skipped: the Python package is not built or tested: {why}")
    sys.exit(0)


def main():
    with tempfile.TemporaryDirectory() as place:
        try:
            venv.create(place, with_pip=True, system_site_packages=True)
        except (OSError, subprocess.CalledProcessError) as error:
            skip(f"this Python cannot make an environment: {error}")
        python = Path(place) / "bin" / "python"
        if not pip(python, *NEEDED):
            skip(f"{' '.join(NEEDED)} cannot be installed")
        for package in WANTED + (LARGE if "--torch" in sys.argv[1:] else []):
            if not pip(python, package):
                print(f"{package} cannot be installed; its tests are skipped")
        env = {**os.environ, "VIRTUAL_ENV": place, "PYTHONDONTWRITEBYTECODE": "1"}
        env["PATH"] = f"{python.parent}{os.pathsep}{env['PATH']}"
        # The library as a user gets it, with optimisations of the development profile: tests build in half the time.
        build = ["maturin", "build", "--locked", "--quiet", "--profile", "dev", "--out", place]
        subprocess.run(build, cwd=HERE, env=env, check=True)
        (wheel,) = Path(place).glob("*.whl")
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", wheel], check=True)
        # Not from the sources, where the compiled part may be another.
        tests = [python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", HERE / "tests"]
        sys.exit(subprocess.run(tests, cwd=place, env=env).returncode)


if __name__ == "__main__":
    main()
