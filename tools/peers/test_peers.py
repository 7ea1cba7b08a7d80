#!/usr/bin/env python3
"""Tests of bench.py and its modules: python3 test_peers.py. Those of torch_methods.py need PyTorch, or are skipped."""
import argparse
import contextlib
import importlib.util
import io
import json
import string
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np

import bench
import checkpoint
import install
import report
import rivals
from rivals import Tool

HERE = Path(__file__).resolve().parent
# A program that copies the fine-tune, or what it "compressed", and counts its runs in a file beside it.
PROGRAM = """#!/usr/bin/env python3
import pathlib, shutil, sys
value = lambda name: sys.argv[sys.argv.index(name) + 1]
if "--version" in sys.argv:
    sys.exit(print("fake 1.2.3"))
with open(__file__ + ".runs", "a") as runs:
    print(sys.argv[1], value("--threads"), file=runs)
if sys.argv[1] == "compress":
    shutil.copy(value("--shards") + "/model.safetensors", value("-o"))
else:
    pathlib.Path(value("-o")).mkdir()
    shutil.copy(sys.argv[2], value("-o") + "/model.safetensors")
"""


def save(folder, tensors, metadata=None, name="model.safetensors"):
    """Writes {name: (dtype, array)} as one file, and returns the folder."""
    header, offset = {"__metadata__": metadata} if metadata else {}, 0
    for key, (dtype, array) in tensors.items():
        header[key] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    folder.mkdir(parents=True, exist_ok=True)
    data = b"".join(array.tobytes() for _, array in tensors.values())
    (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder


def floats(*values):
    return "F32", np.array(values, "<f4")


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)


class Checkpoints(Folder):
    def test_bf16_is_rounded_to_the_nearest_and_ties_to_even(self):
        bits = np.array([0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x7F800000, 0x7F800001,
                         0xFFC00000], "<u4")
        got = np.frombuffer(checkpoint.converted(bits.tobytes(), "F32", "BF16"), "<u2")
        self.assertEqual([hex(x) for x in got],
                         ["0x3f80", "0x3f80", "0x3f82", "0x3f81", "0x7f80", "0x7f80", "0x7fc0", "0xffc0"])

    def test_bf16_and_f16_come_back_from_f32(self):
        halves = np.array([1, -0.0, 6e-8, 65504], "<f2")
        self.assertEqual(np.frombuffer(checkpoint.converted(halves.tobytes(), "F16", "F32"), "<f4").tolist(),
                         halves.astype("f4").tolist())
        brains = np.arange(0, 0x7F80, 7, dtype="<u2").tobytes()
        self.assertEqual(checkpoint.converted(checkpoint.converted(brains, "BF16", "F32"), "F32", "BF16"), brains)

    def test_shards_are_joined_converted_and_cut(self):
        tensors = {"x": floats(1, 2), "n": ("I64", np.arange(3))}
        source = save(self.folder / "a", tensors, {"format": "pt"}, "1.safetensors")
        save(source, {"y": floats(3)}, name="2.safetensors")
        (source / "config.json").write_text("{}")
        (source / "model.safetensors.index.json").write_text("{}")
        checkpoint.write(source, self.folder / "b", "BF16")
        tensors, metadata = checkpoint.read(self.folder / "b")
        self.assertEqual([(n, t.dtype, t.shape, t.bytes) for n, t in tensors.items()],
                         [("x", "BF16", [2], 4), ("n", "I64", [3], 24), ("y", "BF16", [1], 2)])
        self.assertEqual(metadata, {"format": "pt"})
        self.assertEqual(b"".join(tensors["x"].chunks()).hex(), "803f0040")
        self.assertEqual(sorted(p.name for p in (self.folder / "b").iterdir()), ["config.json", "model.safetensors"])
        self.assertEqual(checkpoint.first(source, 12), {"x", "y"})
        self.assertEqual(checkpoint.first(source, 5, "BF16"), {"x"})
        checkpoint.write(source, self.folder / "c", None, {"y", "n"})
        self.assertEqual(list(checkpoint.read(self.folder / "c")[0]), ["n", "y"])

    def test_a_file_cut_short_is_an_error(self):
        source = save(self.folder / "a", {"x": floats(1, 2)})
        path = source / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-4])
        with self.assertRaisesRegex(ValueError, "ends early"):
            checkpoint.Original(source)

    def test_what_came_back_is_told(self):
        tensors = {"x": floats(1, 2), "y": floats(3)}
        original = checkpoint.Original(save(self.folder / "a", tensors))
        cases = [
            (tensors, None, "bit-exact"),
            (tensors, {"format": "pt"}, "bit-exact, header differs"),
            ({"y": tensors["y"], "x": tensors["x"]}, None, "bit-exact, header differs"),
            ({"x": floats(1, 2.5), "y": floats(3)}, None, "lossy"),
            ({"x": tensors["x"]}, None, "lossy, 1 tensors missing"),
            ({**tensors, "z": floats(1)}, None, "lossy, 1 tensors more"),
            ({"x": ("F64", np.array([1.0, 2.0])), "y": floats(3)}, None, "lossy, comes back as F64"),
            ({"x": floats(1, 2), "y": ("F32", np.array([[3]], "<f4"))}, None, "lossy"),
        ]
        for i, (restored, metadata, verdict) in enumerate(cases):
            self.assertEqual(original.verdict(save(self.folder / f"r{i}", restored, metadata)), verdict)
            self.assertEqual(original.verdict(self.folder / f"r{i}" / "model.safetensors"), verdict)


class Measures(unittest.TestCase):
    def run_one(self, seconds, *command):
        done = subprocess.run([sys.executable, "-I", "-S", HERE / "measure.py", str(seconds), *command],
                              capture_output=True, text=True, check=True)
        return json.loads(done.stdout), done.stderr

    def test_memory_and_time_are_the_commands(self):
        work = ("import time; b = bytearray(64 << 20); end = time.process_time() + .2\n"
                "while time.process_time() < end: pass")
        got, _ = self.run_one(60, sys.executable, "-c", work)
        self.assertEqual((got["status"], got["over"]), (0, 0))
        self.assertTrue(0.2 <= got["cpu"] < 20 and 0.2 <= got["wall"])
        self.assertTrue(64 << 20 <= got["peak"] < 160 << 20)

    def test_processes_that_run_together_are_added(self):
        work = ("import os, time\nif not os.fork():\n b = bytearray(64 << 20); time.sleep(.5); os._exit(0)\n"
                "b = bytearray(64 << 20); os.wait()")
        got, _ = self.run_one(60, sys.executable, "-c", work)
        self.assertGreaterEqual(got["peak"], 128 << 20)

    def test_a_command_that_takes_too_long_is_ended_with_what_it_started(self):
        got, _ = self.run_one(0.3, "sh", "-c", "sleep 60 & sleep 60")
        self.assertEqual((got["status"], got["over"]), (-9, 1))
        self.assertLess(got["wall"], 30)

    def test_the_command_ends_with_its_measurement(self):
        command = [sys.executable, "-I", "-S", HERE / "measure.py", "60", "sh", "-c", "echo $$; exec sleep 60"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as measurement:
            pid = int(measurement.stderr.readline())
            measurement.terminate()
            self.assertEqual(measurement.wait(30), 143)
        self.assertFalse(Path(f"/proc/{pid}").exists())

    def test_output_and_status_are_passed_on(self):
        got, said = self.run_one(60, "sh", "-c", "echo one; exit 3")
        self.assertEqual((got["status"], said), (3, "one\n"))


class Entries(unittest.TestCase):
    def test_templates_have_only_words_that_are_known(self):
        args = SimpleNamespace(program="p", peers=Path("v"), threads=2, include="x y")
        known = bench.Bench.words(SimpleNamespace(args=args, scratch=Path("s"), base=Path("b"), fine_tune=Path("f"),
                                                  bytes=[1, 1], dtype="F32"), Path("k"))
        for tool in rivals.TOOLS:
            for template in (tool.compress, tool.restore, tool.prepare):
                words = {word for _, word, _, _ in string.Formatter().parse(template) if word}
                self.assertLessEqual(words, set(known), tool)
            self.assertIn("{out}", tool.compress)
            self.assertTrue("{restored}" in tool.restore or "{restored_file}" in tool.restore)
            self.assertNotIn("{", report.shown(tool.compress))
        self.assertEqual(len({(t.name, t.settings) for t in rivals.TOOLS}), len(rivals.TOOLS))

    def test_a_template_becomes_commands(self):
        words = {"a": Path("with space"), "list": ["--include", "x y"], "none": []}
        self.assertEqual(bench.steps("one {a} -T{a} {none} && two {list}", words),
                         [["one", "with space", "-Twith space"], ["two", "--include", "x y"]])

    def test_a_command_is_shown_as_one_would_type_it(self):
        self.assertEqual(report.shown("{bin}/tool {fine_tune_file} -o {out} -T{threads} {include}", threads=2),
                         "tool FINE_TUNE -o OUT -T2")

    def test_sizes_are_read(self):
        self.assertEqual([bench.bytes_of(t) for t in ("5", "2K", "3MiB", "1GiB")], [5, 2048, 3 << 20, 1 << 30])
        for text in ("", "1.5G", "x", "5T"):
            with self.assertRaises(argparse.ArgumentTypeError):
                bench.bytes_of(text)

    def test_too_large_is_refused_with_the_reason(self):
        tool = Tool("t", "", "", "", "", memory=3, limit=100, because="is slow")
        self.assertEqual(bench.refusal(tool, 101, 150, 1000), "not run: is slow, the larger file has 101")
        self.assertEqual(bench.refusal(tool, 100, 1 << 30, 1 << 30),
                         "not run: needs about 3.0 GiB of memory, 1.0 GiB are there")
        self.assertIsNone(bench.refusal(tool, 100, 150, 1000))

    def test_a_reason_is_the_line_that_says_most(self):
        self.assertEqual(install.reason("warning: a\nERROR: no such package\nbye\n"), "ERROR: no such package")
        self.assertEqual(install.reason("Traceback\n  line\nValueError: names differ\nonly in base: a\n"),
                         "ValueError: names differ")
        self.assertEqual(install.reason("one\ntwo\n\n"), "two")
        self.assertEqual(install.reason(""), "no output")


class Runs(Folder):
    def bench(self, tools, *options):
        """Runs bench.py over a pair with a fake program: what it printed and the program's runs."""
        base = save(self.folder / "base", {"y": floats(5), "x": floats(1, 2)})
        fine_tune = save(self.folder / "fine tune", {"x": floats(1, 3), "y": floats(4)})
        program = self.folder / "program"
        program.write_text(PROGRAM)
        program.chmod(0o755)
        argv = ["bench.py", str(base), str(fine_tune), "--program", str(program), "--peers", str(self.folder), *options]
        out, err = io.StringIO(), io.StringIO()
        with (mock.patch("sys.argv", argv), mock.patch.object(bench, "TOOLS", tools), contextlib.redirect_stdout(out),
              contextlib.redirect_stderr(err)):
            bench.main()
        runs = Path(f"{program}.runs")
        return out.getvalue(), err.getvalue(), runs.read_text() if runs.exists() else ""

    def own(self):
        return rivals.TOOLS[0]

    def copy(self, name, compress="cp {fine_tune_file} {out}", restore="cp {out} {restored_file}", **more):
        return Tool(name, "as it is", compress, restore, "{program} --version", **more)

    def test_rounds_go_over_all_tools_and_medians_are_printed(self):
        out, err, runs = self.bench([self.own(), self.copy("copy")], "--rounds", "2", "--threads", "1", "--json",
                                    str(self.folder / "all.json"))
        self.assertEqual([line.split()[1:3] for line in err.splitlines()],
                         [["1:", "delta-stream"], ["1:", "copy"], ["2:", "delta-stream"], ["2:", "copy"]])
        self.assertEqual(runs, "compress 1\nrestore 1\n" * 2)
        row = next(line for line in out.splitlines() if line.startswith("| copy"))
        size = (self.folder / "fine tune/model.safetensors").stat().st_size
        self.assertTrue(row.startswith(f"| copy | 1.2.3 | as it is | {size} | 100.00 % |"), row)
        self.assertTrue(row.endswith("| bit-exact |"))
        self.assertIn("- copy as it is: `cp FINE_TUNE OUT`, `cp OUT RESTORED`", out)
        self.assertEqual([len(row["rounds"]) for row in json.loads((self.folder / "all.json").read_text())], [2, 2])

    def test_what_fails_is_listed_with_the_reason(self):
        (self.folder / "missing.json").write_text(json.dumps({"gone": "ERROR: no such package"}))
        out, _, _ = self.bench([
            self.own(),
            Tool("gone", "", "gone {out}", "gone {restored}", "package gone"),
            self.copy("fails", compress="sh -c 'echo the reason $0 >&2; exit 7' {base_file}"),
            self.copy("slow", compress="sh -c 'sleep 60' {out}"),
            self.copy("empty", restore="true {out} {restored}"),
            self.copy("large", memory=1e9),
            self.copy("absent", compress="no-such-program {out}"),
        ], "--rounds", "2", "--timeout", "5", "--memory", "1G")
        for expected in ("- gone (): not run: ERROR: no such package",
                         "- fails (as it is): failed with 7: the reason BASE_DIR/model.safetensors",
                         "- slow (as it is): over 5 s in `sh -c 'sleep 60' OUT`",
                         "- empty (as it is): restored nothing",
                         "- large (as it is): not run: needs about", "- absent (as it is): could not be started"):
            self.assertIn(expected, out)
        self.assertNotIn("| slow |", out)

    def test_what_is_made_once_stays_for_all_rounds(self):
        out, _, _ = self.bench([self.own(), self.copy(
            "kept", compress="cp {kept}/base {out}", prepare="cp {base_file} {kept}/base")], "--rounds", "2")
        self.assertRegex(out, r"\| kept \|.*\| lossy \|")
        self.assertIn("once, not measured: `cp BASE KEPT/base`", out)

    def test_a_pair_is_converted_for_all(self):
        out, _, _ = self.bench([self.own()], "--rounds", "1", "--dtype", "bf16")
        self.assertIn("BF16 (converted)", out)
        self.assertRegex(out, r"\| delta-stream \|.*\| bit-exact \|")

    def test_only_the_first_tensors_are_taken_on_request(self):
        out, _, _ = self.bench([self.own()], "--rounds", "1", "--limit", "8")
        size = checkpoint.write(self.folder / "fine tune", self.folder / "cut", None, {"x"}).stat().st_size
        self.assertIn(f"first tensors up to 8 bytes; {size} and {size} bytes", out)

    def test_tools_are_chosen_by_name(self):
        out, _, _ = self.bench([self.own(), self.copy("a"), self.copy("b")], "--rounds", "1", "--tools", "b")
        self.assertEqual([line.split(" | ")[0] for line in out.splitlines() if line.startswith("| ")][1:],
                         ["| delta-stream", "| b"])
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
            self.bench([self.own()], "--tools", "nothing")


class Reports(unittest.TestCase):
    def row(self, name, size, seconds, verdict="bit-exact"):
        figures = {"wall": seconds, "cpu": seconds, "peak": 100}
        return {"tool": Tool(name, "s", "", "", ""), "refused": None, "version": "1",
                "rounds": [{"bytes": size, "compress": figures, "restore": figures, "verdict": verdict}]}

    def test_only_exact_tools_that_do_better_are_named(self):
        rows = [self.row("delta-stream", 100, 2), self.row("small", 90, 3), self.row("fast", 200, 1),
                self.row("worse", 200, 3), self.row("lossy", 1, 1, "lossy"),
                self.row("header", 50, 2, "bit-exact, header differs")]
        self.assertEqual(report.betters(rows), [
            "- small (s): size 0.900x",
            "- fast (s): compress wall 0.50x, compress cpu 0.50x, restore wall 0.50x, restore cpu 0.50x",
            "- header (s): size 0.500x"])
        self.assertEqual(report.betters(rows[:1]), ["- none"])

    def test_medians_and_differing_verdicts(self):
        row = self.row("a", 10, 1)
        row["rounds"] += [self.row("a", 30, 5, "lossy")["rounds"][0], self.row("a", 20, 2)["rounds"][0]]
        self.assertEqual((report.size(row), report.medians(row)["compress", "wall"]), (20, 2))
        self.assertEqual(report.verdict(row), "bit-exact / lossy")
        self.assertFalse(report.exact(self.row("a", 1, 1, "lossy")))


@unittest.skipUnless(importlib.util.find_spec("torch") and importlib.util.find_spec("safetensors"), "needs PyTorch")
class Torch(unittest.TestCase):
    def test_bits_come_back(self):
        import torch, torch_methods as methods

        bits = torch.rand(5, 7) > 0.5
        self.assertTrue(torch.equal(methods.unpacked(methods.packed(bits), bits.shape), bits))
        self.assertEqual(methods.packed(bits).numel(), 5)

    def test_errors_are_those_of_the_closed_forms(self):
        import torch, torch_methods as methods

        torch.manual_seed(1)
        delta = torch.randn(512, 512)
        for name, expected, share in (("bitdelta", 0.3634, 0.02), ("dare", 9.0, 0.05), ("ultradelta", 19.7, 0.25)):
            method = methods.METHODS[name]
            back = method.delta(method.compress({"x": delta})["x"], delta)
            error = float((back - delta).square().sum() / delta.square().sum())
            self.assertAlmostEqual(error, expected, delta=share * expected, msg=name)

    def test_rates_have_the_asked_mean(self):
        import torch_methods as methods

        of = {"a": (1.0, 300), "b": (2.0, 300), "c": (3.0, 300), "d": (0.5, 100)}
        rates = methods.METHODS["ultradelta"].rates(of)
        self.assertAlmostEqual(sum(rates[name] * n for name, (_, n) in of.items()) / 1000, methods.ULTRA_SPARSITY)
        self.assertEqual(max(rates, key=rates.get), "d")

    def test_linear_layers_inside_blocks_are_chosen(self):
        import torch_methods as methods

        names = ("h.0.mlp.c_fc.weight", "model.layers.3.input_layernorm.weight", "model.embed_tokens.weight",
                 "layers.1.q.bias", "lm_head.weight")
        chosen = [name for name in names if methods.linear(name, None)]
        self.assertEqual(chosen, ["h.0.mlp.c_fc.weight"])
        self.assertTrue(methods.linear("lm_head.weight", "head"))


if __name__ == "__main__":
    unittest.main()
