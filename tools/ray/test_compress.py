#!/usr/bin/env python3
"""Tests of compress.py on a local cluster of four nodes: python3 test_compress.py, with DELTA_STREAM=BINARY.

Says so and ends well where Ray or the program is missing.
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

# The workers of the cluster find compress.py by it.
HERE = Path(__file__).parent.resolve()
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
PROGRAM = os.environ.get("DELTA_STREAM", shutil.which("delta-stream"))
SIZES = json.loads(os.environ.get("PAIR", '{"hidden": 256, "intermediate": 704, "vocab": 1000, "layers": 6}'))
NODES, PARTS = 4, 16
OBJECTS = 80 << 20
OPTIONS = ["--method", "auto", "--bits", "1", "--seed", "3"]

try:
    import ray
    from ray.cluster_utils import Cluster
except ImportError as why:
    print(f"skipped: Ray is not installed ({why})")
    sys.exit(0)
if not PROGRAM:
    print("skipped: there is no delta-stream; say where with DELTA_STREAM")
    sys.exit(0)

import compress


class Killer(threading.Thread):
    """Kills a worker while it makes a part of each round, and takes a node away."""

    def __init__(self, work, cluster, node):
        super().__init__()
        self.work, self.cluster, self.node = work, cluster, node
        self.killed, self.over = [], False

    def run(self):
        for number in (1, 2):
            while not self.over and not self.kill(number):
                time.sleep(0.02)
            if number == 1 and not self.over:
                self.cluster.remove_node(self.node, allow_graceful=False)

    def kill(self, number):
        """Whether a worker of this round was killed before its part was made."""
        for attempts in sorted(self.work.glob(f"round-{number}.part-*.attempts")):
            part = attempts.with_suffix("")
            lines = attempts.read_text().splitlines()
            if lines and not part.exists():
                pid = json.loads(lines[-1])["pid"]
                os.kill(pid, signal.SIGKILL)
                self.killed.append((part.name, pid))
                return True
        return False


class Jobs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        cls.at = Path(cls.dir.name)
        flags = [word for name, n in SIZES.items() for word in (f"--{name}", str(n))]
        made = [PROGRAM, "make-pair", str(cls.at), *flags, "--base-shards", "2", "--shards", "3"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
        cls.cluster = Cluster()
        cls.nodes = [cls.cluster.add_node(num_cpus=1, object_store_memory=OBJECTS) for _ in range(NODES)]
        ray.init(address=cls.cluster.address, log_to_driver=False)

    @classmethod
    def tearDownClass(cls):
        ray.shutdown()
        cls.cluster.shutdown()
        cls.dir.cleanup()

    def given(self, name, *more):
        line = ["--shards", str(self.at / "fine-tune"), "--base", str(self.at / "base")]
        line += ["-o", str(self.at / name), "--parts", str(PARTS), "--program", PROGRAM, "--max-memory", "256MiB"]
        return compress.arguments([*line, *more, "--", *OPTIONS])

    def wait_for_nodes(self, n):
        """The head hears of a lost node within a minute."""
        end = time.monotonic() + 60
        while sum(node["Alive"] for node in ray.nodes()) != n:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.2)

    def test_1_four_nodes_write_what_one_run_writes(self):
        report = compress.compress(self.given("whole", "--alone"))
        self.assertTrue(report["identical"] and report["verified"])
        self.assertEqual((report["nodes"], report["parts"], report["attempts"]), (NODES, PARTS, 2 * PARTS))
        print(
            f"\n{NODES} nodes with one CPU each on a machine with {os.cpu_count()}: {report['seconds']:.1f} s in "
            f"{PARTS} parts and {report['rounds']} rounds, one run of one node {report['seconds_alone']:.1f} s: "
            f"speed-up {report['speed_up']:.2f} (at most {min(NODES, os.cpu_count())} here)"
        )
        self.assertFalse((self.at / "whole.parts").exists())

    def test_2_parts_of_workers_and_nodes_that_are_lost_are_made_again(self):
        given = self.given("lossy", "--keep")
        work = self.at / "lossy.parts"
        # Any but the head, which has the cluster's own records.
        killer = Killer(work, self.cluster, self.nodes[-1])
        killer.start()
        try:
            report = compress.compress(given)
        finally:
            killer.over = True
            killer.join()
        print(f"\nkilled {killer.killed} and one node: {report['attempts']} attempts at {2 * PARTS} parts")
        self.assertEqual(len(killer.killed), 2)
        self.assertGreater(report["attempts"], 2 * PARTS)
        self.wait_for_nodes(NODES - 1)
        self.assertTrue(report["verified"])
        alone = [PROGRAM, "compress", "--shards", str(given.shards), "--base", str(given.base), "-q"]
        one = self.at / "one"
        subprocess.run([*alone, *OPTIONS, "-o", str(one)], check=True, stdout=subprocess.DEVNULL)
        self.assertEqual(one.read_bytes(), (self.at / "lossy").read_bytes())
        # What a job left is used by the next one.
        before = report["attempts"]
        (work / f"round-2.part-3-of-{PARTS}").unlink()
        again = self.given("lossy", "--force", "--no-verify")
        self.assertEqual(compress.compress(again)["attempts"], before + 1)
        self.assertEqual(one.read_bytes(), (self.at / "lossy").read_bytes())

    def test_3_what_the_program_refuses_ends_the_job_with_its_words(self):
        bad = self.given("bad")
        bad.options = ["--method", "auto", "--bits", "99"]
        with self.assertRaisesRegex(ray.exceptions.RayTaskError, "out of range"):
            compress.compress(bad)
        self.assertFalse((self.at / "bad").exists())


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_known_args()
    unittest.main(verbosity=2)
