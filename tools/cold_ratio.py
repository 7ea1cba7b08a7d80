#!/usr/bin/env python3
"""Cold-cache wall time of a compress, as a multiple of reading the same files with `cat`.

    cold_ratio.py BINARY BASE_DIR FINE_TUNE_DIR [--runs 5] [--limit-mib 512] [-- OPTIONS OF COMPRESS]

Interleaves `cat` of both checkpoints in parallel with the compress, dropping the page cache before
each, and prints every run and the medians. With --limit-mib each compress runs in a memory control
group (version 1) of that size, which counts page cache too. Needs root for both.
"""
import argparse, os, statistics, subprocess, sys, tempfile, time
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup/memory")


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


def limited(command, limit_mib):
    if limit_mib is None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return
    group = GROUPS / f"cold-ratio-{os.getpid()}"
    group.mkdir(exist_ok=True)
    (group / "memory.limit_in_bytes").write_text(str(limit_mib << 20))
    join = lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, preexec_fn=join)
    finally:
        (group / "memory.force_empty").write_text("0")
        group.rmdir()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("base")
    parser.add_argument("fine_tune")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--limit-mib", type=int)
    # argparse gives a second run of positional arguments to nobody.
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, options = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    cats, compresses = [], []
    with tempfile.TemporaryDirectory() as scratch:
        command = [args.binary, "compress", "--shards", args.fine_tune, "--base", args.base, "--quiet", "--force",
                   "-o", f"{scratch}/cold.delta.zst", *options]
        for i in range(args.runs):
            cats.append(timed(lambda: cat([args.base, args.fine_tune])))
            compresses.append(timed(lambda: limited(command, args.limit_mib)))
            print(f"run {i + 1}: cat {cats[-1]:.2f} s, compress {compresses[-1]:.2f} s", flush=True)
    a, b = statistics.median(cats), statistics.median(compresses)
    print(f"median: cat {a:.2f} s, compress {b:.2f} s, ratio {b / a:.2f}")


if __name__ == "__main__":
    main()
