#!/usr/bin/env python3
"""How near `plan` comes to what `compress` then writes: one table, a line a pair and method.

    forecast.py BINARY BASE FINE_TUNE [BASE FINE_TUNE]... [--bf16] [--methods FILE] [--limit 5]

Runs `plan` and `compress` on every pair with every line of options in --methods (default: the list below). With --bf16
each pair is taken once as it is and once converted, which needs NumPy. `size` is the forecast over the archive's bytes;
`time` the forecast over what the compress took, where short runs tell little; `memory` the forecast over the most that
was resident, which it is not to fall below 1 of; `cost` the time of the plan over that of the compress. Exit status 1 if
a size is more than --limit percent off.
"""
import argparse, shlex, sys, tempfile
from pathlib import Path

from table import run_json

METHODS = """\
lossless
auto
auto --bits 0.25
auto --quality small
delta-dct
bitdelta
bitdelta --bit-planes 2
dare
deltadq
deltadq --index in-group
deltadq --index csr
ultradelta
ultradelta --trace-reference 100
bitdelta --rest base
auto --rest base
delta-dct --base-shift own
bitdelta --base-shift own
bitdelta --base-shift shared
dare --base-shift own
deltadq --base-shift own
ultradelta --base-shift own
auto --base-shift own
auto --quality small --base-shift own
auto --rest base --base-shift own
"""
COLUMNS = ("forecast", "real", "size", "time", "memory", "sampled", "cost")


def converted(pairs, scratch):
    """The pairs again, in bf16."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers"))
    import checkpoint

    for number, pair in enumerate(pairs):
        places = [scratch / f"{number}-{side}-bf16" for side in ("base", "fine-tune")]
        for source, place in zip(pair, places):
            checkpoint.write(source, place, "BF16")
        yield [str(place) for place in places]


def measured(binary, pair, options, scratch):
    """The figures of one line."""
    archive = scratch / "archive.delta.zst"
    command = ["--shards", pair[1], "--base", pair[0], "--json", "-q", "--method", *shlex.split(options)]
    plan = run_json([binary, "plan", *command])
    real = run_json([binary, "compress", "-o", archive, "--force", *command])
    seconds = max(real["elapsed_seconds"], 1e-9)
    return {
        "forecast": plan["archive_bytes"],
        "real": real["archive_bytes"],
        "size": plan["archive_bytes"] / real["archive_bytes"],
        "time": plan["seconds"] / seconds,
        "memory": plan["memory_bytes"] / (real["peak_memory_bytes"] or 1),
        "sampled": plan["sampled"],
        "cost": plan["elapsed_seconds"] / seconds,
    }


def line(label, cells):
    print(f"{label:<44}" + "".join(f"{cell:>14}" for cell in cells), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("checkpoints", nargs="+", metavar="BASE FINE_TUNE")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--methods", type=Path)
    parser.add_argument("--limit", type=float, default=5)
    args = parser.parse_args()
    if len(args.checkpoints) % 2:
        parser.error("checkpoints come in pairs")
    pairs = list(zip(args.checkpoints[::2], args.checkpoints[1::2]))
    lines = (args.methods.read_text() if args.methods else METHODS).splitlines()
    worst = (0, "nothing")
    with tempfile.TemporaryDirectory() as scratch:
        if args.bf16:
            pairs += list(converted(pairs, Path(scratch)))
        for pair in pairs:
            line(Path(pair[1]).name, COLUMNS)
            for options in filter(None, map(str.strip, lines)):
                found = measured(args.binary, pair, options, Path(scratch))
                counts = [f"{found[name]:,}" for name in COLUMNS[:2]]
                line(options, counts + [f"{found[name]:.4f}" for name in COLUMNS[2:]])
                worst = max(worst, (abs(found["size"] - 1) * 100, f"{options} of {pair[1]}"))
    print(f"farthest off: {worst[0]:.2f} %, {worst[1]}")
    sys.exit(worst[0] > args.limit)


if __name__ == "__main__":
    main()
