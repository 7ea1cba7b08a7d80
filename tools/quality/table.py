#!/usr/bin/env python3
"""What is left of a fine-tune after each method, at what size: one table.

    table.py BINARY BASE_DIR FINE_TUNE_DIR --score COMMAND [--seeds 3] [--methods FILE]

Compresses, restores and scores the pair with every line of options in --methods (default: the list below);
a line that draws is run with so many seeds. COMMAND is run as `COMMAND FINE_TUNE_DIR RESTORED_DIR...` and
prints one JSON line a restored directory with `accuracy`, `agreement` and `kl`.
"""
import argparse, json, shlex, subprocess, sys, tempfile
from pathlib import Path

METHODS = """\
delta-dct
delta-dct --patch 8
delta-dct --patch 32
bitdelta
bitdelta --scale unbiased
bitdelta --scale unbiased --bit-planes 2
dare --sparsity 0.9
dare --sparsity 0.95
deltadq --alpha 8
deltadq --alpha 16
deltadq --alpha 32
ultradelta --sparsity 0.9
ultradelta --sparsity 0.95
ultradelta --sparsity 0.97
bitdelta --base-shift own
deltadq --alpha 32 --base-shift own
"""
DRAWING = ("dare", "deltadq", "ultradelta")
COLUMNS = ("bits", "honest", "paper", "error", "accuracy", "agreement", "kl", "seconds", "MiB")


def run_json(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(map(str, command))}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def compress(binary, base, ft, options, seed, directory):
    """Compresses and restores; the report and the restored directory."""
    archive, restored = directory / "a.delta.zst", directory / "restored"
    report = run_json([binary, "compress", "--shards", ft, "--base", base, "-o", archive, "--seed", seed, "--json", "-q",
                       "--method", *shlex.split(options)])
    run_json([binary, "restore", archive, "--base", base, "-o", restored, "--json", "-q"])
    return report, restored


def row(label, report, score):
    paper = report["paper_ratio"]
    figures = (report["bits_per_parameter"], report["ratio"], paper, report["relative_error"], score["accuracy"],
               score["agreement"], score["kl"], report["elapsed_seconds"], report["peak_memory_bytes"] / 2**20)
    formats = ("{:.4f}", "{:.2f}", "{:.2f}", "{:.4g}", "{:.4f}", "{:.4f}", "{:.4f}", "{:.2f}", "{:.0f}")
    cells = [f.format(x) if x is not None else "-" for f, x in zip(formats, figures)]
    print(f"{label:<44}" + "".join(f"{c:>11}" for c in cells), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("base")
    parser.add_argument("fine_tune")
    parser.add_argument("--score", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", type=Path)
    args = parser.parse_args()
    lines = (args.methods.read_text() if args.methods else METHODS).splitlines()
    print(f"{'method, settings (and seed)':<44}" + "".join(f"{c:>11}" for c in COLUMNS))
    with tempfile.TemporaryDirectory() as scratch:
        runs = []
        for options in filter(None, map(str.strip, lines)):
            for seed in range(args.seeds if options.split()[0] in DRAWING else 1):
                directory = Path(scratch) / str(len(runs))
                directory.mkdir()
                label = f"{options} ({seed})" if options.split()[0] in DRAWING else options
                runs.append((label, *compress(args.binary, args.base, args.fine_tune, options, str(seed), directory)))
        command = [*shlex.split(args.score), args.fine_tune, *(str(r[2]) for r in runs)]
        # A score takes long, so each row is printed once it is known.
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as scores:
            for (label, report, _), line in zip(runs, scores.stdout):
                row(label, report, json.loads(line))
        if scores.returncode:
            sys.exit(f"{args.score}: exit status {scores.returncode}")


if __name__ == "__main__":
    main()
