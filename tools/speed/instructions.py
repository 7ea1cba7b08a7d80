#!/usr/bin/env python3
"""Instructions a parameter that each stage of a compress takes, counted by callgrind.

    instructions.py BINARY BASE_DIR FINE_TUNE_DIR [--methods delta-dct,bitdelta]

Counts do not depend on what else the machine does. Valgrind knows vectors of 256 bits, so the clones counted
are those for AVX2. A stage is the module of the program a function belongs to, or the library. Parameters are
all elements of the fine-tune, whether stored with loss or not. Prints one Markdown table.
"""
import argparse, collections, json, re, shlex, subprocess, sys, tempfile
from pathlib import Path

from cold import METHODS

# First match decides; the rest is "other".
STAGES = [
    ("convert, subtract, add", r"kernel::(convert|float)"),
    ("patches: gather and add", r"kernel::patch|codec::patches"),
    ("DCT", r"kernel::(dct|butterfly)|rustdct"),
    ("quantise, sums, bounds", r"kernel::quantise"),
    ("pack", r"kernel::pack"),
    ("rank, sample, draw", r"kernel::(select|sample|random)|codec::mask"),
    ("directions", r"kernel::(low_rank|block|jacobi)"),
    ("trellis, normal tables", r"kernel::(trellis|normal)"),
    ("rANS, Rice", r"kernel::(rans|rans_stream|rice)"),
    ("byte planes", r"kernel::(planes|lane|entropy)"),
    ("codec, method, pipeline", r"delta_stream::"),
    ("zstd", r"ZSTD|HUF_|FSE_|HIST_"),
    ("hashes, checksums", r"xxh|crc32c"),
    ("memory moves", r"memmove|memset|memcpy|memcmp"),
]


def stage_of(function):
    return next((name for name, pattern in STAGES if re.search(pattern, function)), "other")


def parse(annotated):
    """Exclusive counts by stage, from the lines `COUNT (SHARE%)  FILE:FUNCTION [OBJECT]`."""
    counts = collections.Counter()
    for line in annotated.splitlines():
        found = re.match(r"\s*([\d,]+) \(\s*[\d.]+%\)\s+(\S.*)$", line)
        if found and "PROGRAM TOTALS" not in line:
            counts[stage_of(found[2])] += int(found[1].replace(",", ""))
    return counts


def count(binary, base, fine_tune, method):
    with tempfile.TemporaryDirectory() as scratch:
        out = f"{scratch}/callgrind.out"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--quiet", binary, "compress",
                   "--shards", fine_tune, "--base", base, "-o", f"{scratch}/a.delta.zst", "--threads", "1", "--quiet",
                   "--method", *shlex.split(method)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        annotate = ["callgrind_annotate", "--threshold=100", "--auto=no", out]
        return parse(subprocess.run(annotate, check=True, capture_output=True, text=True).stdout)


def parameters(directory):
    """Elements of all safetensors files of a directory."""
    total = 0
    for path in Path(directory).glob("*.safetensors"):
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                n = 1
                for side in tensor["shape"]:
                    n *= side
                total += n
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("base")
    parser.add_argument("fine_tune")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=METHODS.split(","))
    args = parser.parse_args()
    n, found = parameters(args.fine_tune), {}
    for method in args.methods:
        found[method] = count(args.binary, args.base, args.fine_tune, method)
        print(f"counted {method}", file=sys.stderr, flush=True)
    print("| stage | " + " | ".join(args.methods) + " |")
    print("|---" * (len(args.methods) + 1) + "|")
    for stage in [name for name, _ in STAGES] + ["other"]:
        if any(found[m][stage] >= 0.05 * n for m in args.methods):
            print(f"| {stage} | " + " | ".join(f"{found[m][stage] / n:.1f}" for m in args.methods) + " |")
    print("| all | " + " | ".join(f"{sum(found[m].values()) / n:.1f}" for m in args.methods) + " |")


if __name__ == "__main__":
    main()
