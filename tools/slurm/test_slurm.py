#!/usr/bin/env python3
"""Runs the Slurm scripts without Slurm: python3 test_slurm.py, with DELTA_STREAM=BINARY.

A stand-in for sbatch runs each array job as a loop with SLURM_ARRAY_TASK_ID set. The scripts are parsed by bash, and
looked through by shellcheck where it is installed.
"""
import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).parent.resolve()
SCRIPTS = sorted(HERE.glob("*.sh"))
PROGRAM = os.environ.get("DELTA_STREAM", shutil.which("delta-stream"))

# Runs a job at once, its tasks in turn from the last to the first, and prints its number as --parsable asks for.
SBATCH = r"""#!/usr/bin/env bash
set -euo pipefail
parsable= array=
while [[ $1 == --* ]]; do
    case $1 in
        --parsable) parsable=1 ;;
        --array=1-*) array=${1#--array=1-} ;;
        --dependency=afterok:*)
            # Only jobs that were submitted and ended well.
            grep -qx "${1#--dependency=afterok:}" "$JOBS" ;;
        --job-name=* | --output=*) ;;
        *) echo "sbatch: unknown option $1" >&2; exit 1 ;;
    esac
    shift
done
[ -n "$parsable" ]
id=$((1000 + $(wc -l < "$JOBS")))
export SLURM_CPUS_PER_TASK=2
if [ -n "$array" ]; then
    for task in $(seq "$array" -1 1); do SLURM_ARRAY_TASK_ID=$task "$@" >> "$JOBS.log"; done
else
    "$@" >> "$JOBS.log"
fi
echo "$id" >> "$JOBS"
echo "$id;cluster"
"""


class Scripts(unittest.TestCase):
    def test_bash_and_shellcheck_have_nothing_to_say(self):
        self.assertEqual([script.name for script in SCRIPTS], ["join.sh", "part.sh", "submit.sh"])
        for script in SCRIPTS:
            subprocess.run(["bash", "-n", str(script)], check=True)
            self.assertTrue(os.access(script, os.X_OK), script)
        shellcheck = shutil.which("shellcheck")
        if not shellcheck:
            self.skipTest("shellcheck is not installed; bash -n passed")
        subprocess.run([shellcheck, *map(str, SCRIPTS)], check=True)

    def test_a_call_without_arguments_says_how(self):
        call = subprocess.run([str(HERE / "submit.sh")], capture_output=True, text=True)
        self.assertEqual(call.returncode, 2)
        self.assertIn("./submit.sh FT BASE ARCHIVE PARTS", call.stderr)


@unittest.skipUnless(PROGRAM, "there is no delta-stream; say where with DELTA_STREAM")
class Jobs(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.at = Path(self.dir.name)
        (self.at / "bin").mkdir()
        sbatch = self.at / "bin/sbatch"
        sbatch.write_text(SBATCH)
        sbatch.chmod(0o755)
        (self.at / "jobs").touch()
        path = f"{self.at}/bin{os.pathsep}{os.environ['PATH']}"
        self.env = dict(os.environ, PATH=path, JOBS=str(self.at / "jobs"), DELTA_STREAM=str(PROGRAM))
        sizes = "--hidden 64 --intermediate 176 --vocab 96 --layers 2 --base-shards 1 --shards 2".split()
        self.run_one(PROGRAM, "make-pair", "pair with blanks", *sizes)

    def run_one(self, *line, ok=True):
        call = subprocess.run(line, cwd=self.at, env=self.env, capture_output=True, text=True)
        self.assertEqual(call.returncode == 0, ok, call.stderr)
        return call

    def test_the_archive_is_that_of_one_run(self):
        ft, base = "pair with blanks/fine-tune", "pair with blanks/base"
        for options, jobs in [
            (["--method", "lossless"], 2),
            (["--method", "auto", "--quality", "medium", "--seed", "7"], 4),
            (["--method", "ultradelta", "--trace-reference", "3", "--include", r"(q|k)_proj|mlp\..*"], 6),
        ]:
            (self.at / "jobs").write_text("")
            self.run_one(PROGRAM, "compress", "--shards", ft, "--base", base, "-o", "one", "--force", "-q", *options)
            call = self.run_one(str(HERE / "submit.sh"), ft, base, "ft.delta.zst", "5", *options)
            self.assertEqual(call.stdout.split(), [str(1000 + jobs - 1)])
            self.assertEqual((self.at / "one").read_bytes(), (self.at / "ft.delta.zst").read_bytes())
            self.assertFalse((self.at / "ft.delta.zst.parts").exists())
            (self.at / "ft.delta.zst").unlink()

    def test_a_part_that_fails_ends_the_run_without_an_archive(self):
        ft, base = "pair with blanks/fine-tune", "pair with blanks/base"
        self.env["DELTA_STREAM"] = str(self.at / "bin/flaky")
        flaky = self.at / "bin/flaky"
        flaky.write_text(f'#!/bin/sh\ncase "$*" in *"--part 3/5"*) exit 6 ;; esac\nexec "{PROGRAM}" "$@"\n')
        flaky.chmod(0o755)
        line = [str(HERE / "submit.sh"), ft, base, "ft.delta.zst", "5", "--method", "lossless"]
        self.run_one(*line, ok=False)
        self.assertFalse((self.at / "ft.delta.zst").exists())
        # Submitted again it replaces what is there.
        self.env["DELTA_STREAM"] = str(PROGRAM)
        self.run_one(*line)
        self.assertTrue((self.at / "ft.delta.zst").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
