#!/usr/bin/env python3
"""Tests of curves.py and its modules: python3 test_curves.py. One needs scipy and the shared data, or is skipped."""
import contextlib
import importlib.util
import io
import json
import math
import os
import stat
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml
from pathlib import Path
from unittest import mock

import numpy as np

import antibody
import curves
import plot
from score import yardstick

SHARED = Path(os.environ.get("DELTA_STREAM_SHARED", curves.ROOT.parent / "shared"))
HAS_MODEL = (SHARED / "data/anarcii-l2/base").is_dir() and (SHARED / curves.YARDSTICK).is_file()
SVG = "{http://www.w3.org/2000/svg}"
WIDTH, IDS = 8, 7

# A program that answers as delta-stream does: it knows one method, and counts its runs in a file beside it.
PROGRAM = """#!/usr/bin/env python3
import json, pathlib, shutil, sys
verb, value = sys.argv[1], lambda name: sys.argv[sys.argv.index(name) + 1]
if "--help" in sys.argv:
    sys.exit(print("- dare:  dropped"))
if verb == "compress":
    with open(__file__ + ".runs", "a") as runs:
        print(value("--method"), value("--sparsity"), value("--seed"), file=runs)
    print(json.dumps({"bits_per_parameter": 16 * (1 - float(value("--sparsity")))}))
elif verb == "restore":
    shutil.copytree(value("--base"), value("-o"))
    print("{}")
else:
    tensors = [{"name": "encoder.layers.0.self_attention.multihead_attn.in_proj_weight", "stored_as": "lossy"},
               {"name": "decoder.fc_out.weight", "stored_as": "lossless"}]
    print(json.dumps({"variants": [{"tensor_list": tensors}]}))
"""


def made(seed):
    """Tensors of a model with one layer a half, as they are called in the checkpoint."""
    random, out = np.random.default_rng(seed), {}

    def put(name, *shape):
        out[name] = random.standard_normal(shape).astype("f4")

    for half, attentions in (("encoder", ["self_attention"]), ("decoder", ["self_attention", "encoder_attention"])):
        put(half + ".tok_embedding.weight", IDS, WIDTH)
        put(half + ".pos_embedding.weight", antibody.LENGTH, WIDTH)
        layer = half + ".layers.0."
        for attention in attentions:
            put(f"{layer}{attention}.multihead_attn.in_proj_weight", 3 * WIDTH, WIDTH)
            put(f"{layer}{attention}.multihead_attn.in_proj_bias", 3 * WIDTH)
            put(f"{layer}{attention}.multihead_attn.out_proj.weight", WIDTH, WIDTH)
            put(f"{layer}{attention}.multihead_attn.out_proj.bias", WIDTH)
        for norm in ("self_attn_layer_norm", "enc_attn_layer_norm", "ff_layer_norm"):
            put(f"{layer}{norm}.weight", WIDTH)
            put(f"{layer}{norm}.bias", WIDTH)
        for name, rows, columns in (("fc_1", 4 * WIDTH, WIDTH), ("fc_2", WIDTH, 4 * WIDTH)):
            put(f"{layer}positionwise_feedforward.{name}.weight", rows, columns)
            put(f"{layer}positionwise_feedforward.{name}.bias", rows)
    put("decoder.fc_out.weight", IDS, WIDTH)
    put("decoder.fc_out.bias", IDS)
    return out


def checkpoint(folder):
    """A directory of `made` tensors: the seed stands in its name, and `load` reads it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"HEADS": 2, "INPUT_DIM": IDS, "OUTPUT_DIM": IDS}))
    (folder / "model.safetensors").write_text(str(len(folder.name)))
    return folder


def load(path):
    return made(int(Path(path).read_text()))


class Fronts(unittest.TestCase):
    def test_a_front_leaves_out_what_a_smaller_point_betters(self):
        points = [(1, 0.5), (2, 0.6), (0.5, 1.0), (1, 0.4), (4, 0.1), (3, 0.4)]
        self.assertEqual(curves.front(points), [(0.5, 1.0), (1, 0.4), (4, 0.1)])

    def test_between_points_a_power_law_is_met(self):
        line = [(x, 0.3 * x**-1.7) for x in (0.25, 0.5, 4)]
        for bits in (0.25, 0.3, 0.5, 1, 4):
            self.assertAlmostEqual(curves.at(line, bits), 0.3 * bits**-1.7, places=12)
        self.assertIsNone(curves.at(line, 0.2))
        self.assertAlmostEqual(curves.at(line, 0.247), line[0][1], places=12)
        self.assertEqual(curves.at(line, 9), line[-1][1])
        self.assertIsNone(curves.at([], 1))


class Kept(unittest.TestCase):
    def setUp(self):
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.place = Path(place.name)
        self.points = curves.Points(self.place / "points.json")

    def put(self, pair, key, **figures):
        self.points.put(pair, key, figures)

    def test_seeds_are_averaged_and_a_point_of_other_rows_is_missing(self):
        key = "dare --sparsity 0.9 "
        self.put("rxnfp-ft10k", key + "(0)", bits=1, kl=0.1, agreement=1, rows=300)
        self.put("rxnfp-ft10k", key + "(1)", bits=2, kl=0.3, agreement=0, rows=300)
        self.put("rxnfp-ft10k", key + "(2)", bits=9, kl=9, agreement=0, rows=20)
        read = curves.Points(self.points.path)
        self.assertTrue(read.has("rxnfp-ft10k", key + "(0)", 300))
        self.assertFalse(read.has("rxnfp-ft10k", key + "(0)", 20))
        self.assertFalse(read.has("rxnfp-ft10k", key + "(3)", 300))
        self.assertFalse(read.has("ft-tcr", key + "(0)", None))
        mean = read.means("rxnfp-ft10k")["dare"]["--sparsity 0.9"]
        self.assertEqual(mean, {"bits": 1.5, "kl": 0.2, "agreement": 0.5, "rows": 300, "seeds": 2})

    def test_the_check_names_what_is_not_above_auto(self):
        self.assertEqual(curves.check(self.points), ["no point of auto yet"])
        for bits, kl in ((0.0625, 3.0), (1, 0.1), (4, 0.01)):
            self.put("rxnfp-ft10k", f"auto --bits {bits} (0)", bits=bits, kl=kl, agreement=1, rows=300)
        for n, kl in ((1, 0.2), (4, 0.005)):
            key = f"bitdelta --bit-planes {n} --scale mean (0)"
            self.put("rxnfp-ft10k", key, bits=n, kl=kl, agreement=1, rows=300)
        small, middle, large = curves.check(self.points)
        self.assertIn("no other method is as small", small)
        self.assertIn("below all, next bitdelta", middle)
        self.assertIn("NOT below bitdelta 0.005", large)

    def test_a_table_has_a_row_for_each_setting_and_dashes_for_what_is_missing(self):
        self.put("ft-tcr", "dare --sparsity 0.9 (0)", bits=1.5, error=6, median=5, layers=12)
        rows = curves.table(self.points).splitlines()
        self.assertEqual(rows[2:], ["| `dare --sparsity 0.9` | - | - | - | - | - | 1.500 | 6 / 5 |"])

    def test_a_run_measures_what_is_missing_and_only_that(self):
        program, data = self.place / "program", self.place / "shared/data"
        program.write_text(PROGRAM)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        for name in ("base", "ft-shark"):
            checkpoint(data / "anarcii-l2" / name)
        (self.place / "shared/quality").mkdir()
        (self.place / "shared" / curves.YARDSTICK).write_text(
            "import sys\nsys.path.insert(0, %r)\nfrom test_curves import load\n" % str(Path(__file__).parent))
        counts = []
        for options in ("--seeds 1 --points 2", "--seeds 1 --points 2", "--seeds 2 --points 2", "--draw-only",
                        "--seeds 1 --points 2 --again dare"):
            arguments = ["curves.py", "--program", program, "--shared", self.place / "shared", "--out", self.place,
                         "--methods", "auto,dare", *options.split()]
            said, failed = io.StringIO(), io.StringIO()
            with mock.patch.object(sys, "argv", list(map(str, arguments))):
                with contextlib.redirect_stdout(said), contextlib.redirect_stderr(failed):
                    curves.main()
            counts.append(len(Path(f"{program}.runs").read_text().splitlines()))
            self.assertIn("no point of auto yet", said.getvalue())
            if options != "--draw-only":
                self.assertIn("left out auto", failed.getvalue())
                self.assertIn("skipped ft-tcr", failed.getvalue())
        self.assertEqual(counts, [2, 2, 4, 4, 6])
        # What the program gives back is the base: all that was asked for is missing.
        figures = json.loads(self.points.path.read_text())["ft-shark"]["dare --sparsity 0.995 (0)"]
        self.assertAlmostEqual(figures["error"], 1)
        self.assertEqual(figures["layers"], 1)
        xml.parse(self.place / "curves-anarcii.svg")
        self.assertFalse((self.place / "curves-rxnfp.svg").exists())


class Pictures(unittest.TestCase):
    def test_every_method_has_a_line_and_a_name_inside_the_picture(self):
        sizes = [2.0**k for k in range(-4, 3)]
        lines = {name: [(x, 0.1 / x * (1 + i / 50)) for x in sizes] for i, name in enumerate(plot.COLOURS)}
        shown = {name: (line, [*line, (1, 5.0), (64, 1e-9)]) for name, line in lines.items()}
        panels = [("A < B", "error", shown, [(1, "base")]), ("empty", "error", {}, [])]
        root = xml.fromstring(plot.draw(panels))
        height = float(root.get("height"))
        self.assertEqual(height, 2 * plot.HEIGHT)
        for name in lines:
            group, = (g for g in root.iter(SVG + "g") if g.get("class") == name)
            path = group.find(f"{SVG}path[@class='line']").get("d")
            self.assertEqual(path.count("L"), len(sizes) - 1)
            self.assertEqual(group.find(SVG + "text").text, name)
        names = sorted(float(t.get("y")) for t in root.iter(SVG + "text") if t.get("class") == "name")
        self.assertTrue(all(b - a >= plot.LINE - 0.2 for a, b in zip(names, names[1:])))
        for circle in root.iter(SVG + "circle"):
            x, y = float(circle.get("cx")), float(circle.get("cy"))
            self.assertTrue(plot.LEFT <= x <= plot.WIDTH - plot.RIGHT and plot.TOP <= y <= plot.HEIGHT - plot.BOTTOM)
        style = root.find(SVG + "style").text
        self.assertTrue(all(colour in style for pair in plot.COLOURS.values() for colour in pair))

    def test_every_method_has_a_colour(self):
        self.assertEqual(set(plot.COLOURS), set(curves.METHODS))

    def test_names_are_spread_inside_their_bounds(self):
        for wanted in ([5, 5, 5], [0, 99, 99, 98], [50], []):
            got = plot.spread(wanted, 10, 0, 100)
            self.assertTrue(all(0 <= y <= 100 for y in got))
            self.assertTrue(all(b - a >= 10 for a, b in zip(sorted(got), sorted(got)[1:])))
        self.assertEqual(plot.spread([80, 20, 50], 10, 0, 100), [80, 20, 50])


class Antibody(unittest.TestCase):
    def ids(self):
        return np.random.default_rng(2).integers(1, IDS, (2, 3, 6))

    def test_attention_is_what_it_is_defined_to_be(self):
        model = antibody.Model(made(1), 2)
        query, memory = np.random.default_rng(3).standard_normal((2, 1, 5, WIDTH)).astype("f4")
        name = "decoder.layers.0.encoder_attention"
        t = {k[len(name) + 16 :]: v.astype("f8") for k, v in model.t.items() if k.startswith(name)}
        project = lambda x, i: (x @ t["in_proj_weight"].T + t["in_proj_bias"])[:, i * WIDTH : (i + 1) * WIDTH]
        q, k, v = project(query[0], 0), project(memory[0], 1), project(memory[0], 2)
        mixed = np.zeros((5, WIDTH))
        for head in (slice(0, 4), slice(4, 8)):
            for i in range(5):
                shares = [math.exp(q[i, head] @ k[j, head] / 2) for j in range(5)]
                mixed[i, head] = sum(s * v[j, head] for j, s in enumerate(shares)) / sum(shares)
        want = mixed @ t["out_proj.weight"].T + t["out_proj.bias"]
        np.testing.assert_allclose(model.attention(name, query, memory, False)[0], want, rtol=1e-4, atol=1e-4)

    def test_the_decoder_sees_the_whole_source_and_no_later_target(self):
        source, target = self.ids()
        out = antibody.Model(made(1), 2).logits(source, target)
        later, other = target.copy(), source.copy()
        later[:, 4:] = later[:, 4:] % (IDS - 1) + 1
        other[:, 5] = other[:, 5] % (IDS - 1) + 1
        moved = antibody.Model(made(1), 2).logits(source, later)
        np.testing.assert_array_equal(moved[:, :4], out[:, :4])
        self.assertTrue((moved[:, 4:] != out[:, 4:]).any())
        self.assertTrue((antibody.Model(made(1), 2).logits(other, target)[:, 0] != out[:, 0]).any())

    def test_errors_are_those_of_the_outputs(self):
        with tempfile.TemporaryDirectory() as place:
            base, own, got = (checkpoint(Path(place) / name) for name in ("b", "own", "restored"))
            layers = antibody.Layers(load, base, own)
            model = antibody.Model(layers.own, 2)
            model.logits(*antibody.random_tokens(json.loads((own / "config.json").read_text())))
            names, want = sorted(model.inputs), []
            self.assertEqual(len(names), 11)
            for name in names:
                square = lambda a, b: sum(
                    ((x.astype("f8") @ (a[name][rows] - b[name][rows]).T) ** 2).sum() for rows, x in model.inputs[name])
                want.append(square(made(8), layers.own) / square(layers.own, layers.base))
            scored = layers.score(got, names)
            self.assertAlmostEqual(scored["error"] / np.mean(want), 1, places=4)
            self.assertAlmostEqual(scored["median"] / np.median(want), 1, places=4)
            self.assertEqual(scored["layers"], 11)
            self.assertEqual(layers.score(own, names)["error"], 0)
            self.assertAlmostEqual(layers.score(base, names)["error"], 1)

    @unittest.skipUnless(HAS_MODEL and importlib.util.find_spec("scipy"),
                         "scipy or the shared data is not here; set DELTA_STREAM_SHARED")
    def test_the_real_model_numbers_an_antibody(self):
        # Each number is foretold from those before it, as only the right architecture does: a heavy chain in IMGT's
        # numbering, which leaves out what the chain has not and marks insertions.
        chain = ("EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVSAISGSGGSTYYADSVKGRFTISRDNSKNTLYLQMNSLRAEDTAVYYC"
                 "AKDRLSITIRPRYYGLDVWGQGTLVTVSS")
        numbers = [*range(1, 10), *range(11, 31), *range(35, 60), *range(62, 73), *range(74, 112), *range(112, 129)]
        start, end, first = 1, 2, 4
        insertion, heavy = first + 128, first + 129
        source = [start, *(first + "ACDEFGHIKLMNPQRSTVWXY".index(residue) for residue in chain), end]
        target = [start, heavy, *(first + n - 1 for n in numbers), end]
        middle = target.index(first + 111)
        target[middle:middle] = [insertion] * (len(source) + 1 - len(target))
        y = yardstick(SHARED / curves.YARDSTICK)
        model = antibody.Model(y.load(SHARED / "data/anarcii-l2/base/model.safetensors"), 4)
        logits = model.logits(np.array([source]), np.array([target[:-1]]))
        self.assertEqual(logits[0].argmax(-1).tolist(), target[1:])


if __name__ == "__main__":
    unittest.main()
