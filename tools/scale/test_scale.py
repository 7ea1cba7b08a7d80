#!/usr/bin/env python3
"""Tests of scale.py's modules: python3 test_scale.py. Nothing is mounted, and no rights are needed."""
import json
import math
import os
import random
import struct
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import bench
import build
import drain
import layout
import models
import table
from measure import Cost

PARAMETERS = {
    "7b": 6_738_415_616,
    "13b": 13_015_864_320,
    "34b": 33_743_970_304,
    "70b": 68_976_648_192,
    "mixtral": 46_702_792_704,
}
# As published.
SHARDS = {"7b": 2, "13b": 3, "34b": 7, "70b": 15, "mixtral": 19}
TENSORS = {"7b": 291, "13b": 363, "34b": 435, "70b": 723, "mixtral": 995}
POOL = 5 * 10**8 // layout.BLOCK * layout.BLOCK


def shards_of(model, limit):
    return [layout.placed(shard) for shard in layout.split(models.tensors(model), limit)]


class Shapes(unittest.TestCase):
    def test_models_have_their_parameters_tensors_and_shards(self):
        for key, model in models.MODELS.items():
            with self.subTest(key):
                found = models.tensors(model)
                self.assertEqual(sum(math.prod(shape) for _, shape in found), PARAMETERS[key])
                self.assertEqual(len({name for name, _ in found}), TENSORS[key])
                self.assertEqual(len(shards_of(model, model.shard_bytes)), SHARDS[key])

    def test_the_tensor_restored_alone_is_a_matrix_of_the_model(self):
        for model in models.MODELS.values():
            self.assertEqual(len(dict(models.tensors(model))[models.one_tensor(model)]), 2)

    def test_a_config_tells_experts_only_where_there_are_some(self):
        self.assertEqual(models.config(models.MODELS["mixtral"])["num_local_experts"], 8)
        self.assertNotIn("num_local_experts", models.config(models.MODELS["7b"]))
        self.assertEqual(models.config(models.MODELS["70b"])["num_key_value_heads"], 8)


class Layout(unittest.TestCase):
    def test_shards_hold_each_tensor_once_and_keep_their_limit(self):
        for model in models.MODELS.values():
            for limit in (model.shard_bytes, build.FINE_TUNE_SHARD_BYTES):
                shards = shards_of(model, limit)
                names = sorted(t.name for shard in shards for t in shard)
                self.assertEqual(names, sorted(name for name, _ in models.tensors(model)))
                self.assertTrue(all(sum(t.size for t in shard) <= limit for shard in shards))

    def test_tensors_lie_without_gaps_and_matrices_begin_on_blocks(self):
        for model in models.MODELS.values():
            for shard in shards_of(model, model.shard_bytes):
                ends = [0] + [t.begin + t.size for t in shard]
                self.assertEqual([t.begin for t in shard], ends[:-1])
                self.assertTrue(all(t.begin % layout.BLOCK == 0 for t in shard if len(t.shape) == 2))

    def test_a_header_fills_blocks_and_says_where_tensors_lie(self):
        shard = shards_of(models.MODELS["13b"], 10**10)[0]
        raw = layout.header(shard)
        length = int.from_bytes(raw[:8], "little")
        self.assertEqual(len(raw), 8 + length)
        self.assertEqual((len(raw) % layout.BLOCK, length % 8), (0, 0))
        entries = json.loads(raw[8:])
        self.assertEqual(entries.pop("__metadata__"), {"format": "pt"})
        for t in shard:
            expected = {"dtype": "BF16", "shape": list(t.shape), "data_offsets": [t.begin, t.begin + t.size]}
            self.assertEqual(entries.pop(t.name), expected)
        self.assertEqual(entries, {})

    def test_an_index_names_the_shard_of_each_tensor(self):
        model = models.MODELS["7b"]
        shards = [(layout.shard_name(i, 2), s) for i, s in enumerate(shards_of(model, model.shard_bytes))]
        index = layout.index(shards)
        self.assertEqual(index["metadata"]["total_size"], 2 * PARAMETERS["7b"])
        self.assertEqual(index["weight_map"]["model.embed_tokens.weight"], "model-00001-of-00002.safetensors")
        self.assertEqual(index["weight_map"]["lm_head.weight"], "model-00002-of-00002.safetensors")

    def test_tensors_take_other_places_of_the_pool_and_begin_on_blocks(self):
        places = layout.pool_places(models.tensors(models.MODELS["70b"]), POOL)
        self.assertTrue(all(at % layout.BLOCK == 0 and at < POOL for at in places.values()))
        self.assertGreater(len(set(places.values())), 700)

    def test_pieces_cover_a_tensor_and_wrap_at_the_end_of_the_pool(self):
        b = layout.BLOCK
        self.assertEqual(layout.pieces(5 * b, 2 * b, 3 * b), [(0, 2 * b, b), (b, 0, 3 * b), (4 * b, 0, b)])
        draw = random.Random(3)
        for _ in range(200):
            pool = draw.randrange(1, 40) * b
            size, place = draw.randrange(1, 100 * b), draw.randrange(pool // b) * b
            done = 0
            for offset, at, n in layout.pieces(size, place, pool):
                self.assertEqual((offset, at), (done, (place + done) % pool))
                self.assertLessEqual(at + n, pool)
                done += n
            self.assertEqual(done, size)


class Build(unittest.TestCase):
    """Clones are replaced by copies, since few file systems share blocks."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir = Path(scratch.name)
        self.model = models.Model("tiny", 1280, 2048, 2, 10, 5, 64, 12 * 10**6)
        self.pool = self.dir / "pool"
        self.pool.mkdir()
        for seed, side in enumerate(build.SIDES):
            (self.pool / side).write_bytes(random.Random(seed).randbytes(1000 * layout.BLOCK + 5))
        self.clones = 0

    def ioctl(self, out, request, argument):
        pool, at, n, to = struct.unpack("qQQQ", argument)
        self.assertEqual((at % layout.BLOCK, n % layout.BLOCK, to % layout.BLOCK), (0, 0, 0))
        self.clones += 1
        os.pwrite(out, os.pread(pool, n, at), to)

    def values(self, side):
        found = {}
        for path in sorted((self.dir / "model" / side).glob("*.safetensors")):
            start, entries = build.read_header(path)
            raw = path.read_bytes()
            self.assertEqual(len(raw), start + max(end for *_, end in entries.values()))
            found |= {name: raw[start + begin : start + end] for name, (_, _, begin, end) in entries.items()}
        return found

    def test_both_sides_take_the_same_places_of_the_pool(self):
        with mock.patch("build.fcntl.ioctl", self.ioctl), mock.patch("build.FINE_TUNE_SHARD_BYTES", 7 * 10**6):
            build.write_pair(self.dir / "model", self.model, self.pool)
        self.assertGreater(self.clones, 2 * 2 * 7)
        n_pool = build.pool_bytes(self.pool)
        self.assertEqual(n_pool, 1000 * layout.BLOCK)
        places = layout.pool_places(models.tensors(self.model), n_pool)
        for side in build.SIDES:
            pool, found = (self.pool / side).read_bytes(), self.values(side)
            self.assertEqual(set(found), set(places))
            for name, raw in found.items():
                pieces = layout.pieces(len(raw), places[name], n_pool)
                self.assertEqual(raw, b"".join(pool[at : at + n] for _, at, n in pieces), name)
        counts = [len(list((self.dir / "model" / side).glob("*.safetensors"))) for side in build.SIDES]
        self.assertLess(*counts)

    def test_a_given_pair_lends_the_matrices_that_both_sides_have(self):
        pair = []
        for side, dtypes in (("a", ["BF16", "BF16", "F32"]), ("b", ["BF16", "F32", "F32"])):
            directory = self.dir / side
            directory.mkdir()
            pair.append(directory)
            shapes = [[4, 4096], [2, 2048], [1024]]
            data, entries = b"", {}
            for i, (dtype, shape) in enumerate(zip(dtypes, shapes)):
                size = math.prod(shape) * (2 if dtype == "BF16" else 4)
                entries[f"t{i}"] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
                data += f"{side}{i}".encode() * (size // 2)
            text = json.dumps(entries).encode()
            (directory / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
        out = self.dir / "gathered"
        build.make_pool(None, out, 1, pair, 1)
        self.assertEqual((out / "base").read_bytes(), b"a0" * 4 * 4096)
        self.assertEqual((out / "fine-tune").read_bytes(), b"b0" * 4 * 4096)


@mock.patch("drain.CELL", 1 << 20)
@mock.patch("drain.SAMPLE", 1 << 16)
class Drained(unittest.TestCase):
    """Samples are read through the page cache, since not every file system has direct I/O."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir, self.path = Path(scratch.name), Path(scratch.name) / "x.safetensors"
        self.raw = random.Random(1).randbytes((4 << 20) + 4096)
        reference = self.dir / "reference"
        reference.mkdir()
        (reference / self.path.name).write_bytes(self.raw)
        self.drain = drain.Drain(lambda: [self.path, self.dir / "gone"], reference)
        read = lambda path, at: path.read_bytes()[at : at + drain.SAMPLE]
        patched = mock.patch("drain.read_direct", read)
        patched.start()
        self.addCleanup(patched.stop)

    def write(self, start, end):
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, len(self.raw))
        os.pwrite(fd, self.raw[start:end], start)
        os.close(fd)

    def test_only_cells_that_were_full_twice_are_punched(self):
        self.write(1 << 20, (3 << 20) + 8192)
        self.drain.look()
        self.assertEqual(self.drain.punched, 0)
        self.write(0, 1 << 20)
        self.drain.look()
        self.assertEqual((self.drain.punched, self.drain.samples, self.drain.differ), (2 << 20, 2, []))
        self.assertEqual(self.path.read_bytes()[1 << 20 : 3 << 20], bytes(2 << 20))
        self.assertEqual(self.path.read_bytes()[: 1 << 20], self.raw[: 1 << 20])
        self.drain.look()
        self.assertEqual(self.drain.punched, 3 << 20)

    def test_a_wrong_byte_in_a_sample_is_found(self):
        at = drain.sample_offset(2) + 7
        self.raw = self.raw[:at] + bytes([self.raw[at] ^ 1]) + self.raw[at + 1 :]
        self.write(0, len(self.raw))
        self.drain.look()
        self.drain.look()
        self.assertEqual(self.drain.differ, [f"x.safetensors at {drain.sample_offset(2)}"])

    def test_samples_lie_inside_their_cells(self):
        for cell in range(500):
            inside = drain.sample_offset(cell) - cell * drain.CELL
            self.assertTrue(drain.SAMPLE <= inside <= drain.CELL - 2 * drain.SAMPLE)


class Tables(unittest.TestCase):
    def cost(self, seconds, cpu=1.0):
        return Cost(seconds, cpu, 2 * 10**9, 10**9, 512 << 20, 100 << 20)

    def test_a_row_has_medians_and_the_ratio_to_its_yardstick(self):
        costs = {"cat": [self.cost(9.0), self.cost(10.0), self.cost(30.0)], "compress": [self.cost(20.0, 30.0)]}
        lines = table.of_model(costs, {"compress": 5 * 10**8})
        self.assertEqual(lines[2], "| cat | 2.0 | 1.0 | 10.0 |  | 512 | 100 | 1.0 | 0.10 |  |")
        self.assertEqual(lines[3], "| compress | 2.0 | 1.0 | 20.0 | 2.00 x cat | 512 | 100 | 30.0 | 1.50 | 0.50 |")

    def test_the_last_table_divides_by_the_fine_tune_and_leaves_out_what_did_not_run(self):
        results = [("a", "dare", 10**10, {"cat": [self.cost(5.0)], "restore": [self.cost(20.0, 15.0)]}),
                   ("b", "dare", 10**9, {"cat": [self.cost(5.0)]})]
        self.assertEqual(table.per_gb(results), [
            "| model | method | GB | cat s | cat CPU s | restore s | restore CPU s |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
            "| a | dare | 10.0 | 0.50 | 0.10 | 2.00 | 1.50 |",
            "| b | dare | 1.0 | 5.00 | 1.00 |  |  |",
        ])

    def test_every_yardstick_is_a_step(self):
        self.assertLessEqual(set(bench.YARDSTICKS) | set(bench.YARDSTICKS.values()), set(bench.STEPS))


if __name__ == "__main__":
    unittest.main()
