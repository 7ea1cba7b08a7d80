#!/usr/bin/env python3
"""Wall time of compress and restore on cold files, as multiples of what the disk takes.

    cold.py BINARY BASE_DIR FINE_TUNE_DIR [--methods delta-dct,bitdelta] [--runs 5] [--threads 2] [--limit-mib 512]
        [--io auto,direct]

Each round runs `cat` of both checkpoints in parallel, then every method's compress, then `cat` of the base to a
new file with `sync`, then every method's restore; the page cache is dropped before each. A method may carry
options, as in `ultradelta --sparsity 0.9`. All is done once for each --io. Prints a Markdown table of medians,
and of ratios of medians. With --limit-mib each run of the program is in a memory control group (version 1) of
that size, which counts page cache too. Needs root for both.
"""
import argparse, datetime, os, platform, shlex, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup/memory")
METHODS = "lossless,delta-dct,bitdelta,dare,deltadq,ultradelta,auto"


def drop_caches():
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def timed(run):
    drop_caches()
    start = time.monotonic()
    run()
    return time.monotonic() - start


def cat(directories):
    jobs = [subprocess.Popen(["sh", "-c", f"cat '{d}'/*.safetensors > /dev/null"]) for d in directories]
    if any([job.wait() for job in jobs]):
        sys.exit("cat failed")


def copy(directory, target):
    subprocess.run(["sh", "-c", f"cat '{directory}'/*.safetensors > '{target}'; sync"], check=True)


def limited(command, limit_mib):
    if limit_mib is None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return
    group = GROUPS / f"cold-{os.getpid()}"
    group.mkdir(exist_ok=True)
    (group / "memory.limit_in_bytes").write_text(str(limit_mib << 20))
    join = lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, preexec_fn=join)
    finally:
        (group / "memory.force_empty").write_text("0")
        group.rmdir()


def one_round(args, scratch, times):
    """Runs everything once; archives and outputs are gone before the next."""
    runs = [(io, method) for method in args.methods for io in args.io]
    common = lambda io: ["--quiet", "--force", "--threads", str(args.threads), "--io", io]
    archive = lambda i: f"{scratch}/{i}.delta.zst"
    times["cat"].append(timed(lambda: cat([args.base, args.fine_tune])))
    for i, (io, method) in enumerate(runs):
        command = [args.binary, "compress", "--shards", args.fine_tune, "--base", args.base, "-o", archive(i),
                   "--method", *shlex.split(method), *common(io)]
        times["compress", io, method].append(timed(lambda: limited(command, args.limit_mib)))
    times["copy"].append(timed(lambda: copy(args.base, f"{scratch}/copy")))
    os.unlink(f"{scratch}/copy")
    for i, (io, method) in enumerate(runs):
        command = [args.binary, "restore", archive(i), "--base", args.base, "-o", f"{scratch}/out", *common(io)]
        times["restore", io, method].append(timed(lambda: limited(command, args.limit_mib)))
        shutil.rmtree(f"{scratch}/out")
        os.unlink(archive(i))


def table(args, times):
    median = {key: statistics.median(values) for key, values in times.items()}
    version = subprocess.run([args.binary, "--version"], capture_output=True, text=True).stdout.strip()
    today = datetime.date.today()
    print(f"\n{today}, Linux {platform.release()}, {os.cpu_count()} cores, {version}, {args.threads} threads, "
          f"{len(times['cat'])} rounds, limit {args.limit_mib or 'no'} MiB")
    print(f"\n`cat` of both: {median['cat']:.2f} s; `cat BASE > NEWFILE; sync`: {median['copy']:.2f} s\n")
    print("| method | --io | compress s | over `cat` | restore s | over copy |\n|---|---|---|---|---|---|")
    for m in args.methods:
        for io in args.io:
            a, b = median["compress", io, m], median["restore", io, m]
            print(f"| {m} | {io} | {a:.2f} | {a / median['cat']:.2f} | {b:.2f} | {b / median['copy']:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("base")
    parser.add_argument("fine_tune")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=METHODS.split(","))
    parser.add_argument("--io", type=lambda text: text.split(","), default=["auto", "direct"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit-mib", type=int)
    parser.add_argument("--work", help="directory for archives and outputs; a temporary one unless told")
    args = parser.parse_args()
    keys = ["cat", "copy"] + [(what, io, m) for what in ("compress", "restore") for io in args.io for m in args.methods]
    times = {key: [] for key in keys}
    with tempfile.TemporaryDirectory(dir=args.work) as scratch:
        for i in range(args.runs):
            one_round(args, scratch, times)
            print(f"round {i + 1} of {args.runs}", file=sys.stderr, flush=True)
    table(args, times)


if __name__ == "__main__":
    main()
