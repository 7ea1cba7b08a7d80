#!/usr/bin/env python3
"""delta-stream and what people would use instead, on one pair, round by round: one Markdown table.

    bench.py BASE FINE_TUNE [--program PATH] [--peers DIR] [--rounds 3] [--dtype f32|bf16] [--limit SIZE] [--cold]
             [--tools zstd,xdelta3] [--include PATTERN] [--timeout 600] [--memory SIZE] [--threads 2] [--json FILE]

BASE and FINE_TUNE are directories or .safetensors files. Every tool is given the same: directories of one file each, so
shards are joined first, and with --dtype or --limit the pair is written anew. Round 1 of all tools comes before round 2
of any. --peers is where install.py put the rivals. What could not be run is listed with the reason.
"""
import argparse, json, os, re, shlex, shutil, subprocess, sys, tempfile
from pathlib import Path

import checkpoint
import install
import report
from rivals import TOOLS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
DTYPES = {"f32": "F32", "bf16": "BF16"}
COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "BIGSMALL_WORKERS", "RAYON_NUM_THREADS")
# Nothing measured should wait for a network.
OFFLINE = {"HF_HUB_OFFLINE": "1", "BIGSMALL_DISABLE_VERSION_CHECK": "1"}


class Refused(Exception):
    """Why a tool was not run, or was given up."""


def bytes_of(text):
    found = re.fullmatch(r"(\d+)([KMG]?)(iB)?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text}: not a size such as 1GiB or 500M")
    return int(found[1]) * UNITS[found[2]]


def steps(template, words):
    """The commands of a template: lists of arguments. A path with spaces stays one of them."""
    quoted = {name: shlex.join(word if isinstance(word, list) else [str(word)]) for name, word in words.items()}
    return [shlex.split(part.format_map(quoted)) for part in template.split("&&")]


def added(figures):
    """Steps that follow each other as one run."""
    return {"wall": sum(f["wall"] for f in figures), "cpu": sum(f["cpu"] for f in figures),
            "peak": max(f["peak"] for f in figures)}


def refusal(tool, file_bytes, pair_bytes, memory):
    """Why a tool should not be tried on files of this size, or None."""
    if tool.limit and file_bytes > tool.limit:
        return f"not run: {tool.because}, the larger file has {file_bytes:,}"
    need = tool.memory * pair_bytes
    if need > memory:
        return f"not run: needs about {need / 2**30:.1f} GiB of memory, {memory / 2**30:.1f} GiB are there"
    return None


def prepared(source, out, dtype, names):
    """A directory with one .safetensors: the source itself if it is that already and all of it is asked for."""
    found = checkpoint.files(source)
    if not found or not all(path.is_file() for path in found):
        sys.exit(f"{source}: no .safetensors there")
    if dtype or names is not None or not source.is_dir() or [path.name for path in found] != ["model.safetensors"]:
        checkpoint.write(source, out, dtype, names)
        return out
    return source


class Bench:
    def __init__(self, args, scratch):
        self.args, self.scratch = args, scratch
        dtype = DTYPES.get(args.dtype)
        names = checkpoint.first(args.fine_tune, args.limit, dtype) if args.limit else None
        self.base = prepared(args.base, scratch / "base", dtype, names)
        self.fine_tune = prepared(args.fine_tune, scratch / "fine-tune", dtype, names)
        self.original = checkpoint.Original(self.fine_tune)
        self.bytes = [checkpoint.size(d) for d in (self.base, self.fine_tune)]
        dtypes = [t.dtype for t in checkpoint.read(self.fine_tune)[0].values()]
        self.dtype = max(DTYPES.values(), key=dtypes.count)
        missing = args.peers / "missing.json"
        self.missing = json.loads(missing.read_text()) if missing.is_file() else {}
        self.environment = os.environ | OFFLINE | {name: str(args.threads) for name in COUNTS}

    def words(self, kept):
        a, name = self.args, "model.safetensors"
        run = self.scratch / "run"
        return {"base": self.base, "fine_tune": self.fine_tune, "base_file": self.base / name,
                "fine_tune_file": self.fine_tune / name, "out": run / "out", "restored": run / "restored",
                "restored_file": run / "restored.safetensors", "kept": kept, "program": a.program,
                "hanzo": a.peers / "hanzo/release/peers-hanzo", "python": a.peers / "bin/python",
                "bin": a.peers / "bin", "here": HERE, "threads": a.threads, "bytes": max(self.bytes[0], 1 << 20),
                "dtype": self.dtype, "include": ["--include", a.include] if a.include else []}

    def version(self, tool, words):
        """The tool's version; Refused if it is not there."""
        what, _, package = tool.version.partition(" ")
        command = steps(tool.version, words)[0]
        if what == "package":
            command = [str(words["python"]), "-c", f"import importlib.metadata as m; print(m.version('{package}'))"]
        try:
            said = subprocess.run(command, capture_output=True, text=True)
        except OSError:
            said = None
        found = said and not said.returncode and re.search(r"\d+(\.\d+)+", said.stdout + said.stderr)
        if not found:
            why = self.missing.get(package if what == "package" else tool.name, "not installed")
            raise Refused(f"not run: {why}")
        return found[0]

    def short(self, said):
        """What a tool said, without this machine's paths."""
        for path, name in ((self.base, "BASE_DIR"), (self.fine_tune, "FINE_TUNE_DIR"), (self.scratch, "")):
            said = said.replace(str(path), name)
        return said

    def timed(self, template, words):
        os.sync()
        if self.args.cold:
            Path("/proc/sys/vm/drop_caches").write_text("3")
        figures, left = [], self.args.timeout
        for command in steps(template, words):
            done = subprocess.run([sys.executable, "-I", "-S", HERE / "measure.py", str(left), *command],
                                  capture_output=True, text=True, env=self.environment)
            if done.returncode:
                raise Refused(f"could not be started: {install.reason(done.stderr)}")
            figures.append(json.loads(done.stdout.splitlines()[-1]))
            if figures[-1]["over"]:
                raise Refused(f"over {self.args.timeout:g} s in `{report.shown(template, threads=self.args.threads)}`")
            if figures[-1]["status"]:
                raise Refused(f"failed with {figures[-1]['status']}: {install.reason(self.short(done.stderr))}")
            left = max(1, left - figures[-1]["wall"])
        return added(figures)

    def floors(self):
        """What a command that does nothing takes, and what an import of PyTorch does, or None."""
        try:
            torch = self.timed("{python} -c 'import torch'", self.words(self.scratch))
        except Refused:
            torch = None
        return self.timed("true", {}), torch

    def once(self, tool, words):
        """One round of one tool."""
        run = self.scratch / "run"
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        try:
            figures = {"compress": self.timed(tool.compress, words)}
            out = words["out"]
            found = [out] if out.is_file() else out.rglob("*")
            figures["bytes"] = sum(path.stat().st_size for path in found if path.is_file())
            figures["restore"] = self.timed(tool.restore, words)
            restored = next((words[k] for k in ("restored", "restored_file") if words[k].exists()), None)
            if restored is None:
                raise Refused("restored nothing")
            figures["verdict"] = self.original.verdict(restored)
            return figures
        finally:
            shutil.rmtree(run)


def started(bench, tool, index):
    """A row, with its version, after what has to be made once."""
    row = {"tool": tool, "rounds": [], "refused": None, "version": None}
    kept = bench.scratch / f"kept-{index}"
    kept.mkdir()
    row["words"] = bench.words(kept)
    try:
        row["version"] = bench.version(tool, row["words"])
        if why := refusal(tool, max(bench.bytes), sum(bench.bytes), bench.args.memory):
            raise Refused(why)
        if tool.prepare:
            bench.timed(tool.prepare, row["words"])
    except Refused as why:
        row["refused"] = str(why)
    return row


def measure(bench, tools):
    rows = [started(bench, tool, i) for i, tool in enumerate(tools)]
    for number in range(1, bench.args.rounds + 1):
        for row in rows:
            if row["refused"]:
                continue
            try:
                row["rounds"].append(figures := bench.once(row["tool"], row["words"]))
                seconds = ", ".join(f"{figures[part]['wall']:.2f} s" for part in ("compress", "restore"))
                said = f"{figures['bytes']:,} bytes, {seconds}"
            except Refused as why:
                row["refused"] = said = str(why)
            print(f"round {number}: {row['tool'].name} {row['tool'].settings}: {said}", file=sys.stderr, flush=True)
    return rows


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("fine_tune", type=Path)
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/delta-stream")
    parser.add_argument("--peers", type=Path, default=install.DEFAULT)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=DTYPES, help="convert the pair to it [default: as it is]")
    parser.add_argument("--limit", type=bytes_of, help="only the fine-tune's first tensors, so many bytes")
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each run; needs root")
    parser.add_argument("--tools", help="names, commas between; delta-stream's rows are always there")
    parser.add_argument("--include", help="names stored with loss, where a tool can be told [default: the tools' own]")
    parser.add_argument("--timeout", type=float, default=600, help="seconds a compress or a restore may take")
    parser.add_argument("--memory", type=bytes_of, help="what a tool may need [default: what the machine has free]")
    parser.add_argument("--threads", type=int, default=2, help="of tools that have the setting")
    parser.add_argument("--work", type=Path, help="where what is written goes [default: a temporary directory]")
    parser.add_argument("--json", type=Path, help="keep all figures of all rounds in this file")
    args = parser.parse_args()
    names = {tool.name for tool in TOOLS}
    args.tools = set(args.tools.split(",")) | {"delta-stream"} if args.tools else names
    if unknown := args.tools - names:
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(sorted(names))}")
    args.memory = args.memory or report.free_memory()
    args.program = args.program.resolve()
    return args


def main():
    args = arguments()
    if not args.program.is_file():
        sys.exit(f"{args.program} is not there: cargo build --release, or --program")
    with tempfile.TemporaryDirectory(dir=args.work) as scratch:
        bench = Bench(args, Path(scratch))
        rows = measure(bench, [tool for tool in TOOLS if tool.name in args.tools])
        print(report.text(args, bench, rows, *bench.floors()))
    if args.json:
        args.json.write_text(json.dumps([report.raw(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
