#!/usr/bin/env python3
"""Compresses one fine-tune on all nodes of a Ray cluster that see the same files.

    python3 compress.py --shards FT --base BASE -o ARCHIVE [--parts 16] [more] [-- options of delta-stream compress]

Plans, makes the parts of every round on whatever node has room, makes those again whose worker or node was lost, joins
them, and verifies the archive against the base. The archive is the one that a single run writes.
"""
import argparse
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import ray

# Linux: a child gets this signal when its parent is gone.
PR_SET_PDEATHSIG = 1
EXIT_DIFFERENT = 1


class Lost(Exception):
    """The program was killed, as for want of memory: the part is made again."""


class Failed(Exception):
    """The program says what is wrong; made again it would say so again."""


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def run(line):
    """One call of the program; returns its JSON. It ends with the worker that started it."""
    call = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent
    )
    out, err = call.communicate()
    if call.returncode < 0:
        raise Lost(f"signal {-call.returncode} ended: {' '.join(line)}")
    if call.returncode > 0:
        raise Failed(f"exit code {call.returncode}: {' '.join(line)}\n{err.strip()}")
    return json.loads(out)


def note_attempt(part):
    """Leaves a line beside the part that says who works on it."""
    with open(f"{part}.attempts", "a") as file:
        file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "at": time.time()}) + "\n")


def n_attempts(part):
    try:
        return len(Path(f"{part}.attempts").read_text().splitlines())
    except FileNotFoundError:
        return 0


@ray.remote
def call(line):
    return run(line)


@ray.remote
def make_part(line, part):
    """Makes a part under a name of its own, so that an attempt whose node is cut off is in nobody's way."""
    note_attempt(part)
    mine = f"{part}.{uuid.uuid4().hex}"
    try:
        report = run([*line, "-o", mine])
        os.replace(mine, part)
        return report
    finally:
        Path(mine).unlink(missing_ok=True)


class Job:
    def __init__(self, given):
        self.given = given
        self.work = Path(given.work or f"{given.output}.parts").resolve()
        self.pair = ["--shards", str(given.shards.resolve()), "--base", str(given.base.resolve())]
        resources = ["--max-memory", given.max_memory, "--threads", str(given.cpus), "--quiet", "--json"]
        self.common = [*given.options, *resources]
        self.once = call.options(num_cpus=given.cpus, max_retries=given.retries, retry_exceptions=[Lost])
        self.part = make_part.options(num_cpus=given.cpus, max_retries=given.retries, retry_exceptions=[Lost])

    def program(self, verb, *rest):
        return [self.given.program, verb, *rest]

    def plan(self):
        """Shares the work out, unless an earlier job did that; returns the file and what it says."""
        file = self.work / "plan.json"
        if not file.exists():
            parts = ["--split", str(self.given.parts), "-o", f"{file}.new", "--force"]
            ray.get(self.once.remote(self.program("plan", *self.pair, *parts, *self.common)))
            os.replace(f"{file}.new", file)
        plan = json.loads(file.read_text())
        if plan["parts"] != self.given.parts:
            raise SystemExit(f"{file} is of {plan['parts']} parts; give --parts {plan['parts']}, or remove {self.work}")
        return file, plan

    def round(self, number, plan, surveys):
        """Makes the parts of a round that are not there; returns all."""
        n = self.given.parts
        parts = [self.work / f"round-{number}.part-{i}-of-{n}" for i in range(1, n + 1)]
        # The last --plan counts: rates that were given with one are in this file.
        line = self.program("compress", *self.pair, *self.common, "--plan", str(plan))
        line += ["--surveys", str(surveys)] if surveys else []
        jobs = {}
        for i, part in enumerate(parts, 1):
            if not part.exists():
                jobs[self.part.remote([*line, "--part", f"{i}/{n}"], str(part))] = part
        left = list(jobs)
        while left:
            done, left = ray.wait(left, timeout=60)
            for one in done:
                ray.get(one)
            print(f"round {number}: {n - len(left)} of {n} parts", file=sys.stderr)
        return parts

    def join(self, parts, output, *more):
        line = self.program("join", *map(str, parts), "-o", str(output), "--json", "--quiet", *more)
        return ray.get(self.once.remote(line))

    def all(self):
        began = time.monotonic()
        output = self.given.output.resolve()
        force = ["--force"] if self.given.force else []
        if output.exists() and not force:
            raise SystemExit(f"{output} exists; choose another file, or --force to replace it")
        self.work.mkdir(parents=True, exist_ok=True)
        file, plan = self.plan()
        surveys, made = None, []
        for number in range(1, plan["rounds"] + 1):
            parts = self.round(number, file, surveys)
            made += parts
            if number < plan["rounds"]:
                surveys = self.work / f"round-{number}.surveys"
                self.join(parts, surveys, "--force")
        report = self.join(parts, output, *force)
        report["seconds"] = time.monotonic() - began
        report["attempts"] = sum(map(n_attempts, made))
        report["nodes"] = sum(node["Alive"] for node in ray.nodes())
        if not self.given.no_verify:
            line = self.program("verify", str(output), "--base", str(self.given.base.resolve()), "--json", "--quiet")
            report["verified"] = ray.get(self.once.remote(line))["ok"]
        if not self.given.keep:
            shutil.rmtree(self.work)
        return report

    def alone(self, report):
        """The same as one run on one node, for its time and its bytes."""
        output = self.given.output.resolve()
        single = output.with_name(f"{output.name}.alone")
        began = time.monotonic()
        line = self.program("compress", *self.pair, "-o", str(single), "--force", *self.common)
        ray.get(self.once.remote(line))
        report["seconds_alone"] = time.monotonic() - began
        report["speed_up"] = report["seconds_alone"] / report["seconds"]
        report["identical"] = subprocess.run(["cmp", "-s", str(single), str(output)]).returncode == 0
        single.unlink()


def arguments(line):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=Path, required=True, metavar="FT")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="ARCHIVE")
    parser.add_argument("--parts", type=int, default=16, metavar="N", help="shares; some for each CPU [16]")
    parser.add_argument("--address", help="of the cluster [the environment's, or a local one]")
    parser.add_argument("--program", default="delta-stream", help="on every node")
    parser.add_argument("--work", type=Path, metavar="DIR", help="for parts, seen by all nodes [ARCHIVE.parts]")
    parser.add_argument("--cpus", type=int, default=1, metavar="N", help="CPUs, and threads, of each part [1]")
    parser.add_argument("--max-memory", default="512MiB", metavar="SIZE", help="of each part [512MiB]")
    parser.add_argument("--retries", type=int, default=10, metavar="N", help="of a part that is lost [10]")
    parser.add_argument("--keep", action="store_true", help="keep the parts")
    parser.add_argument("--force", action="store_true", help="replace the archive")
    parser.add_argument("--no-verify", action="store_true", help="do not decode the archive against the base")
    parser.add_argument("--alone", action="store_true", help="then run it on one node too, for speed-up and bytes")
    own, options = (line, []) if "--" not in line else (line[: line.index("--")], line[line.index("--") + 1 :])
    given = parser.parse_args(own)
    given.options = options
    return given


def compress(given):
    """The whole job, in a Ray session that was begun; returns a report."""
    job = Job(given)
    report = job.all()
    if given.alone:
        job.alone(report)
    return report


def main(line):
    given = arguments(line)
    ray.init(address=given.address, log_to_driver=False)
    try:
        report = compress(given)
    except (Failed, ray.exceptions.RayError) as error:
        raise SystemExit(f"error: {error}") from None
    print(json.dumps(report))
    good = report.get("verified", True) and report.get("identical", True)
    return 0 if good else EXIT_DIFFERENT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
