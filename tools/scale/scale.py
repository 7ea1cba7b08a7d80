#!/usr/bin/env python3
"""Compresses and restores models as large as llama-2-70B under a small memory limit, on a small disk.

    scale.py --program BINARY --work DIR [--models 7b,13b,34b,70b,mixtral] [--methods delta-dct] [--rounds 3]

Needs root: it mounts a file system in a file of --work, and makes a memory control group. See README.md.
"""
import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import build
import table
from bench import STEPS, Bench
from disk import Disk
from measure import Failed, Group
from models import MODELS

# Steps that no method changes: once a round.
PLAIN = ("cat", "copy")


def names(known):
    """A parser of `a,b,c`."""

    def parse(text):
        found = text.split(",")
        if set(found) - set(known):
            raise argparse.ArgumentTypeError(f"choose from {','.join(known)}")
        return found

    return parse


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, type=Path, help="the built delta-stream")
    parser.add_argument("--work", required=True, type=Path, help="directory on a disk for the file of the file system")
    parser.add_argument("--models", type=names(MODELS), default=list(MODELS), help="all unless told")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=["delta-dct"])
    parser.add_argument("--steps", type=names(STEPS), default=list(STEPS), help="all unless told; cat always runs")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--limit-mib", type=int, default=512, help="memory of the control group, page cache included")
    parser.add_argument("--read-mb-s", type=int, metavar="N", help="let the group read at most N MB a second")
    parser.add_argument("--room", type=int, default=22, metavar="GIB", help="largest size of the file; 22 unless told")
    parser.add_argument("--pool", nargs=2, type=Path, metavar=("BASE", "FINE_TUNE"), help="bf16 pair to take values of")
    parser.add_argument("--pool-gib", type=int, default=2, metavar="GIB", help="values of each side; 2 unless told")
    parser.add_argument("--keep", action="store_true", help="leave the file, so that the next run finds its pool there")
    return parser.parse_args()


def say(*lines):
    print(*lines, sep="\n", flush=True)


def facts(args):
    version = subprocess.run([args.program, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    say(
        f"- {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, Linux {os.uname().release}, {os.cpu_count()} cores",
        f"- {version}, {args.threads} threads, at most {args.limit_mib} MiB with page cache, rounds: {args.rounds}",
        f"- `{shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`",
        f"- loop file of at most {args.room} GiB, direct I/O, reads at "
        + (f"most {args.read_mb_s} MB/s" if args.read_mb_s else "any speed"),
    )


def measure(bench, args):
    """Costs and archive sizes by method: {method: ({step: [cost]}, {step: bytes})}."""
    out = {method: ({}, {}) for method in args.methods}
    failed = set()
    for round_no in range(args.rounds):
        plain = {step: bench.step(step, None) for step in PLAIN if step == "cat" or step in args.steps}
        for step, cost in plain.items():
            say(f"  round {round_no + 1}: {step}: {cost.seconds:.1f} s, {cost.cpu:.1f} CPU s")
        for method in args.methods:
            costs, archives = out[method]
            for step, cost in plain.items():
                costs.setdefault(step, []).append(cost)
            try:
                if method not in failed:
                    measure_method(bench, method, args.steps, costs, archives, round_no)
            except Failed as e:
                bench.failed.append(f"{method}: {e}")
                failed.add(method)
            finally:
                bench.archive.unlink(missing_ok=True)
    return out


def measure_method(bench, method, steps, costs, archives, round_no):
    for step in (step for step in STEPS if step not in PLAIN and step in steps):
        cost = bench.step(step, method)
        costs.setdefault(step, []).append(cost)
        if step in ("compress", "append"):
            archives[step] = bench.archive.stat().st_size
        say(f"  round {round_no + 1}: {method} {step}: {cost.seconds:.1f} s, {cost.cpu:.1f} CPU s")


def run_model(model, args, disk, group):
    """Builds a model, measures all, removes it. Gives what `table.per_gb` needs, and what failed."""
    directory = disk.root / "model"
    used = disk.used()
    build.write_pair(directory, model, disk.root / "pool")
    bench = Bench(args.program, args.threads, disk, group, directory, model)
    size = bench.size(bench.fine_tune)
    shared, extents = build.shared_extents(min(bench.fine_tune.glob("*.safetensors")))
    say(
        "", f"## {model.title}", "",
        f"{bench.size(bench.base) / 1e9:.1f} GB of base and {size / 1e9:.1f} GB of fine-tune in "
        f"{(disk.used() - used) / 1e9:.2f} GB of disk beside the pool; {shared} of {extents} extents of the "
        "fine-tune's first shard are shared.", "",
    )
    results = []
    for method, (costs, archives) in measure(bench, args).items():
        say("", f"**{method}**", "", *table.of_model(costs, archives))
        results.append((model.title, method, size, costs))
    say("", *(f"- {note}" for note in bench.notes), *(f"- failed: {what}" for what in bench.failed))
    shutil.rmtree(directory)
    return results, bench.failed


def stop(signum, _):
    sys.exit(128 + signum)


def main():
    args = arguments()
    args.program, args.work = args.program.resolve(), args.work.resolve()
    # So that all `with`s end in order.
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, stop)
    facts(args)
    args.work.mkdir(parents=True, exist_ok=True)
    results, failed = [], []
    with Disk(args.work, args.room, args.keep) as disk, Group(disk, args.limit_mib, args.read_mb_s) as group:
        pool = disk.root / "pool"
        shutil.rmtree(disk.root / "model", ignore_errors=True)
        if not (pool / "origin").exists():
            shutil.rmtree(pool, ignore_errors=True)
            build.make_pool(args.program, pool, args.pool_gib, args.pool, args.threads)
        say(f"- values: {build.pool_bytes(pool) / 1e9:.2f} GB a side from {(pool / 'origin').read_text()}")
        for name in args.models:
            of_model, failed_here = run_model(MODELS[name], args, disk, group)
            results += of_model
            failed += failed_here
    say("", "## All models, over GB of the fine-tune", "", *table.per_gb(results))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
