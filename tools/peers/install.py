#!/usr/bin/env python3
"""Installs the rivals that have to be, into a virtual environment, each by itself so that one failure stops no other.

    install.py [--into DIR] [--torch] [--hanzo]

Without --into the directory is `peers` in the system's directory for temporary files; bench.py looks there too. --torch
adds PyTorch (for two rivals and the research methods; some gigabytes), --hanzo builds the small Rust program in hanzo/.
What could not be installed goes into DIR/missing.json with the reason. zstd, xdelta3 and bsdiff are the system's
package manager's matter.
"""
import argparse, json, re, subprocess, tempfile, venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEFAULT = Path(tempfile.gettempdir()) / "peers"
PACKAGES = ["bigsmall", "z4ai", "reminis"]
NEED_TORCH = ["zipnn", "deltatensors", "weightscope"]
# deltatensors does not name what it imports.
WITH = {"deltatensors": ["safetensors"], "torch": ["safetensors", "numpy"]}


def reason(said):
    """The line of a failed command's output that says most: the last that calls itself an error, or the last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*error\b", line, re.IGNORECASE)]
    return [*lines, *errors][-1][:300] if lines else "no output"


def attempt(name, command, missing):
    print(f"installing {name}", flush=True)
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    missing.pop(name, None)
    if done.returncode:
        missing[name] = reason(done.stderr)
        print(f"{name}: {missing[name]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=DEFAULT)
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--hanzo", action="store_true")
    args = parser.parse_args()
    python, note = args.into / "bin/python", args.into / "missing.json"
    if not python.exists():
        venv.create(args.into, with_pip=True)
    missing = json.loads(note.read_text()) if note.exists() else {}
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    for package in [*PACKAGES, *(["torch", *NEED_TORCH] if args.torch else [])]:
        attempt(package, [*pip, package, *WITH.get(package, [])], missing)
    if args.hanzo:
        target = args.into / "hanzo"
        attempt("hanzo-ml", ["cargo", "build", "--release", "--quiet", "--manifest-path", HERE / "hanzo/Cargo.toml",
                             "--target-dir", target], missing)
    note.write_text(json.dumps(missing, indent=1) + "\n")
    print(f"rivals are in {args.into}; missing: {', '.join(missing) or 'none'}")


if __name__ == "__main__":
    main()
