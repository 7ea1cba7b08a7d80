#!/usr/bin/env python3
"""Tests of what of the speed tools needs no program to run."""
import json, struct, tempfile, unittest
from pathlib import Path

import cold, instructions

ANNOTATED = """
Ir
--------------------------------------------------------------------------------
2,000 (100.0%)  PROGRAM TOTALS

1,200 (60.00%)  src/kernel/dct.rs:delta_stream::kernel::dct::forward_16::widest [/b/delta-stream]
  500 (25.00%)  ???:HUF_compress1X_usingCTable_internal_bmi2 [/b/delta-stream]
  200 (10.00%)  ???:delta_stream::pipeline::ordered::run_worker [/b/delta-stream]
  100 ( 5.00%)  ???:__libc_start_main [/lib/libc.so.6]
"""


class Instructions(unittest.TestCase):
    def test_functions_count_for_the_stage_they_belong_to(self):
        wanted = {"DCT": 1200, "zstd": 500, "codec, method, pipeline": 200, "other": 100}
        self.assertEqual(dict(instructions.parse(ANNOTATED)), wanted)

    def test_every_stage_has_a_pattern_that_its_own_functions_meet(self):
        for function, stage in [
            ("delta_stream::kernel::convert::add", "convert, subtract, add"),
            ("delta_stream::codec::patches::blocks::Block::gather", "patches: gather and add"),
            ("xxhash_rust::xxh3::xxh3_stateful_consume_stripes", "hashes, checksums"),
            ("__memset_avx2_unaligned_erms", "memory moves"),
        ]:
            self.assertEqual(instructions.stage_of(function), stage)

    def test_parameters_are_the_elements_of_all_shards(self):
        with tempfile.TemporaryDirectory() as directory:
            for name, shape in [("a", [3, 4]), ("b", [])]:
                header = {"__metadata__": {"format": "pt"}, "x": {"dtype": "U8", "shape": shape, "data_offsets": [0, 12]}}
                text = json.dumps(header).encode()
                Path(directory, f"{name}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(12))
            self.assertEqual(instructions.parameters(directory), 13)


class Cold(unittest.TestCase):
    def test_methods_carry_options(self):
        self.assertEqual(len(cold.METHODS.split(",")), 7)
        self.assertEqual(set(cold.METHODS.split(",")), set(instructions.METHODS.split(",")))


if __name__ == "__main__":
    unittest.main()
