#!/usr/bin/env python3
"""Size against quality of every method on real fine-tunes: points, curves and a table.

    curves.py --out DIR [--program PATH] [--shared DIR] [--methods auto,dare] [--points 4] [--seeds 3] [--rows 300]

Compresses and restores each pair of DIR/data (by default ../shared beside the repository, or DELTA_STREAM_SHARED) with
every method over its range of settings, and measures what comes back. Each point is kept in OUT/points.json, so a run
does only what is missing; `--again METHODS` measures those anew. Writes OUT/curves-rxnfp.svg and
OUT/curves-anarcii.svg, prints a table, and says at each point of `auto` whether it lies below the other methods'
curves; `--draw-only` does just that with the points there are.
"""
import argparse, json, math, os, subprocess, sys, tempfile
from pathlib import Path

import numpy as np

import plot
from antibody import Layers
from score import sequences, yardstick
from table import compress, run_json

ROOT = Path(__file__).resolve().parents[2]
YARDSTICK = "quality/rxnfp_quality.py"
# Settings from few bits to many. A curve takes the best of them at each size.
METHODS = {
    "auto": [f"--bits {bits}" for bits in (0.0625, 0.125, 0.25, 0.5, 1, 2, 4)],
    "bitdelta": [f"--bit-planes {n} --scale {scale}" for n in (1, 2, 3, 4) for scale in ("mean", "unbiased")],
    "delta-dct": """\
--allocation 2:0.0625,0:0.9375
--allocation 2:0.125,0:0.875 --patch 32
--allocation 2:0.125,0:0.875
--allocation 2:0.125,0:0.875 --rescale off
--allocation 2:0.25,0:0.75
--allocation 2:0.25,0:0.75 --rescale off
--allocation 4:0.125,0:0.875
--allocation 2:0.5,0:0.5 --patch 32
--allocation 2:0.5,0:0.5
--allocation 2:0.5,0:0.5 --rescale off
--allocation 2:0.34,1:0.33,0:0.33
--allocation 2:0.5,0:0.5 --patch 8
--allocation 2:0.75,0:0.25 --rescale off
--allocation 1:1
--allocation 1:1 --rescale off
--allocation 2:1 --patch 32
--allocation 2:1 --patch 32 --rescale off
--allocation 2:1
--allocation 2:1 --rescale off
--allocation 4:0.25,2:0.5,0:0.25
--allocation 4:0.5,0:0.5
--allocation 2:1 --patch 8
--allocation 2:1 --patch 8 --rescale off
--allocation 3:1
--allocation 3:1 --rescale off
--allocation 3:1 --patch 32 --rescale off
--allocation 4:1 --patch 32
--allocation 4:1
--allocation 4:1 --rescale off
""".splitlines(),
    "deltadq": [f"--alpha {a} --bits {b}" for a, b in (
        (32, 2), (64, 4), (20, 2), (16, 2), (32, 4), (8, 2), (16, 3), (16, 4), (4, 2), (8, 3), (8, 4), (2, 2), (4, 3),
        (4, 4), (8, 8), (2, 3), (2, 4), (4, 8), (2, 8))],
    "dare": [f"--sparsity {s}" for s in (0.995, 0.99, 0.98, 0.95, 0.9, 0.8, 0.75)],
    "ultradelta": [f"--sparsity {s}" for s in (
        "0.995 --step 0.004", 0.99, 0.98, 0.97, 0.95, 0.9, "0.8 --bits 2", 0.8, 0.7, 0.5, 0.3)],
}
DRAWING = ("auto", "dare", "deltadq", "ultradelta")
PAIRS = {
    "rxnfp-ft10k": ("rxnfp-base", "rxnfp-ft10k"),
    "ft-shark": ("anarcii-l2/base", "anarcii-l2/ft-shark"),
    "ft-tcr": ("anarcii-l2/base", "anarcii-l2/ft-tcr"),
}
VALUE = {"rxnfp-ft10k": "kl", "ft-shark": "error", "ft-tcr": "error"}
KL, ERROR = "KL divergence from the original's classes, nats", "mean relative error at the layers' outputs"
MARKS = {"kl": [], "error": [(1, "the base alone")]}
PICTURES = {
    "curves-rxnfp.svg": [("rxnfp-ft10k", "Reaction classifier, BERT, trained on another task", KL)],
    "curves-anarcii.svg": [("ft-shark", "Antibody numbering, light fine-tune", ERROR),
                           ("ft-tcr", "Antibody numbering, heavy fine-tune", ERROR)],
}


class Task:
    """The reaction classifier on the first rows of its task."""

    def __init__(self, y, fine_tune, rows):
        self.y, self.rows = y, rows
        self.config = json.loads((Path(fine_tune) / "config.json").read_text())
        self.sequences = sequences(y, 1, rows)
        self.original = y.log_softmax(y.classify(fine_tune, self.config, self.sequences))

    def score(self, restored, _lossy):
        got = self.y.log_softmax(self.y.classify(restored, self.config, self.sequences))
        kl = (np.exp(self.original) * (self.original - got)).sum(1).mean()
        agreement = (got.argmax(1) == self.original.argmax(1)).mean()
        return {"kl": float(kl), "agreement": float(agreement), "rows": self.rows}


class Points:
    """Measured points in a JSON file: pair, then `METHOD OPTIONS (SEED)`, then figures."""

    def __init__(self, path):
        self.path = path
        self.of = json.loads(path.read_text()) if path.exists() else {}

    def has(self, pair, key, rows):
        found = self.of.get(pair, {}).get(key)
        return found is not None and found.get("rows") == rows

    def put(self, pair, key, figures):
        self.of.setdefault(pair, {})[key] = figures
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.of, indent=1) + "\n")
        os.replace(new, self.path)

    def means(self, pair):
        """Means over seeds: {method: {options: figures}}, in the order of METHODS."""
        seeds = {}
        for key, figures in self.of.get(pair, {}).items():
            seeds.setdefault(key.rsplit(" (", 1)[0], []).append(figures)
        out = {}
        for method, settings in METHODS.items():
            for options in settings:
                if found := seeds.get(f"{method} {options}"):
                    # Seeds may have been measured on other rows; those with the most count.
                    rows = max(f.get("rows", 0) for f in found)
                    found = [f for f in found if f.get("rows", 0) == rows]
                    mean = {k: float(np.mean([f[k] for f in found])) for k in found[0]}
                    out.setdefault(method, {})[options] = mean | {"seeds": len(found)}
        return out


def front(points):
    """Of (bits, value), those that no smaller or equal one betters: what a method can do with its best settings."""
    best, out = math.inf, []
    for bits, value in sorted(points):
        if value < best:
            best = value
            out.append((bits, value))
    return out


def at(line, bits):
    """The value of a front at a size, straight on log-log axes; its last one beyond its end, none before it begins.

    A front that begins up to 2 % later counts from there: one bit plane with its scales is more than one bit.
    """
    if not line or bits * 1.02 < line[0][0]:
        return None
    bits = max(bits, line[0][0])
    for (x0, y0), (x1, y1) in zip(line, line[1:]):
        if bits <= x1:
            share = math.log(bits / x0) / math.log(x1 / x0)
            return math.exp((1 - share) * math.log(y0) + share * math.log(y1))
    return line[-1][1]


def curves(points, pair):
    """{method: (front, all points)} of a pair; what is exact lies at the least float that is shown, 1e-9."""
    out = {}
    for method, settings in points.means(pair).items():
        all_points = [(f["bits"], max(f[VALUE[pair]], 1e-9)) for f in settings.values()]
        out[method] = (front(all_points), all_points)
    return out


def measure(points, args, pair, ranges):
    base, fine_tune = (args.shared / "data" / name for name in PAIRS[pair])
    if not (base.is_dir() and fine_tune.is_dir() and (args.shared / YARDSTICK).is_file()):
        return print(f"skipped {pair}: {base}, {fine_tune} or {args.shared / YARDSTICK} is not there", file=sys.stderr)
    rows = args.rows if pair == "rxnfp-ft10k" else None
    todo = []
    for method, settings in ranges.items():
        for options in settings:
            for seed in range(args.seeds if method in DRAWING else 1):
                key = f"{method} {options} ({seed})"
                if method in args.again or not points.has(pair, key, rows):
                    todo.append((key, f"{method} {options}", seed))
    if not todo:
        return
    y = yardstick(args.shared / YARDSTICK)
    scorer = Task(y, fine_tune, rows) if rows else Layers(y.load, base, fine_tune)
    for i, (key, options, seed) in enumerate(sorted(todo, key=lambda t: t[2]), 1):
        with tempfile.TemporaryDirectory() as scratch:
            try:
                report, restored = compress(args.program, base, fine_tune, options, str(seed), Path(scratch))
            except SystemExit as refusal:
                # A size that cannot be had is no point of a curve.
                if "ask for more" not in str(refusal):
                    raise
                print(f"{pair} {key}: {refusal}", file=sys.stderr, flush=True)
                continue
            archive = run_json([args.program, "inspect", Path(scratch) / "a.delta.zst", "--tensors", "--json", "-q"])
            lossy = [t["name"] for t in archive["variants"][0]["tensor_list"] if t["stored_as"] == "lossy"]
            figures = {"bits": report["bits_per_parameter"], **scorer.score(restored, lossy)}
        points.put(pair, key, figures)
        said = ", ".join(f"{k} {v:.5g}" for k, v in figures.items())
        print(f"{i}/{len(todo)} {pair} {key}: {said}", file=sys.stderr, flush=True)


def table(points):
    """Every setting as a row of Markdown; `error` is mean / median over layers, at the bits before it."""
    means = {pair: points.means(pair) for pair in PAIRS}
    head = ("options", "bits", "kl", "agreement", "light: bits", "error", "heavy: bits", "error")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for method, settings in METHODS.items():
        for options in settings:
            found = [means[pair].get(method, {}).get(options) for pair in PAIRS]
            if not any(found):
                continue
            task, *others = found
            cells = [f"`{method} {options}`"]
            cells += [f"{task['bits']:.3f}", f"{task['kl']:.4f}", f"{task['agreement']:.3f}"] if task else ["-"] * 3
            for f in others:
                cells += [f"{f['bits']:.3f}", f"{f['error']:.3g} / {f['median']:.3g}"] if f else ["-"] * 2
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def check(points):
    """Lines that hold each point of `auto` against the other methods' curves at its size."""
    lines = []
    for pair in PAIRS:
        all_curves = curves(points, pair)
        _, own = all_curves.pop("auto", ([], []))
        for bits, value in sorted(own):
            others = {m: v for m, (line, _) in all_curves.items() if (v := at(line, bits)) is not None}
            above = {m: v for m, v in others.items() if v <= value}
            held = above or (dict([min(others.items(), key=lambda o: o[1])]) if others else {})
            says = "NOT below" if above else "below all, next" if others else "no other method is as small"
            names = ", ".join(f"{m} {v:.4g}" for m, v in held.items())
            lines.append(f"{pair}: auto at {bits:.4f} bits, {VALUE[pair]} {value:.4g}: {says} {names}".rstrip())
    return lines or ["no point of auto yet"]


def draw(points, out):
    for name, panels in PICTURES.items():
        drawn = [(title, what, c, MARKS[VALUE[pair]]) for pair, title, what in panels if (c := curves(points, pair))]
        if drawn:
            (out / name).write_text(plot.draw(drawn))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = lambda text: [name for name in text.split(",") if name]
    shared = Path(os.environ.get("DELTA_STREAM_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/delta-stream")
    parser.add_argument("--shared", type=Path, default=shared)
    parser.add_argument("--methods", type=names, default=list(METHODS), help="of " + ", ".join(METHODS))
    parser.add_argument("--pairs", type=names, default=list(PAIRS), help="of " + ", ".join(PAIRS))
    parser.add_argument("--again", type=names, default=[], help="methods whose points are measured anew")
    parser.add_argument("--points", type=int, help="at most so many settings a method, over its range")
    parser.add_argument("--seeds", type=int, default=3, help="of the methods that draw")
    parser.add_argument("--rows", type=int, default=300, help="of the reaction classifier's task")
    parser.add_argument("--draw-only", action="store_true")
    args = parser.parse_args()
    for given, known in ((args.methods, METHODS), (args.again, METHODS), (args.pairs, PAIRS)):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"{', '.join(unknown)}: not one of {', '.join(known)}")
    return args


def chosen(args):
    """The settings to measure: {method: [options]}."""
    said = subprocess.run([args.program, "compress", "--help"], capture_output=True, text=True).stdout
    ranges = {}
    for method in args.methods:
        if f"- {method}:" not in said:
            print(f"left out {method}: {args.program} has no such method", file=sys.stderr)
            continue
        count = min(args.points or len(METHODS[method]), len(METHODS[method]))
        places = np.linspace(0, len(METHODS[method]) - 1, count).round().astype(int)
        ranges[method] = [METHODS[method][i] for i in places]
    return ranges


def main():
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    points = Points(args.out / "points.json")
    if not args.draw_only:
        if not args.program.is_file():
            sys.exit(f"{args.program} is not there: cargo build --release, or --program")
        ranges = chosen(args)
        for pair in args.pairs:
            measure(points, args, pair, ranges)
    draw(points, args.out)
    print(table(points), "", *check(points), sep="\n")


if __name__ == "__main__":
    main()
