#!/usr/bin/env python3
"""Checks the manifests and runs what their pods run, without a cluster: python3 test_kubernetes.py, with
DELTA_STREAM=BINARY and PyYAML.

A stand-in for kubectl takes each manifest, holds it to what a Job of batch/v1 may have, and runs its container's
command, for an indexed Job once for each index, as the pods would. Parts whose name ends in 3 die once and are started again.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

try:
    import yaml
except ImportError:
    yaml = None

HERE = Path(__file__).parent.resolve()
PROGRAM = os.environ.get("DELTA_STREAM", shutil.which("delta-stream"))

# Fields of batch/v1 that may be there, by place, and of what kind; a star is any name.
JOB = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"), "labels": {"*": str}},
    "spec": {
        "completionMode": re.compile("Indexed|NonIndexed"),
        "completions": int,
        "parallelism": int,
        "backoffLimit": int,
        "backoffLimitPerIndex": int,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": re.compile("FailJob|FailIndex|Ignore|Count"),
                    "onExitCodes": {"containerName": str, "operator": re.compile("In|NotIn"), "values": [int]},
                    "onPodConditions": [{"type": str, "status": str}],
                }
            ]
        },
        "template": {
            "metadata": {"labels": {"*": str}},
            "spec": {
                "restartPolicy": re.compile("Never"),
                "containers": [
                    {
                        "name": str,
                        "image": str,
                        "command": [str],
                        "args": [str],
                        "envFrom": [{"configMapRef": {"name": str}}],
                        "env": [{"name": str, "value": str}],
                        "resources": {
                            "requests": {"cpu": re.compile(r"\d+m?"), "memory": re.compile(r"\d+[MG]i")},
                            "limits": {"cpu": re.compile(r"\d+m?"), "memory": re.compile(r"\d+[MG]i")},
                        },
                        "volumeMounts": [{"name": str, "mountPath": str}],
                    }
                ],
                "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str}}],
            },
        },
    },
}
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": JOB["metadata"], "data": {"*": str}}


def check(value, schema, place="."):
    """Holds a value of a manifest to what may be there."""
    if isinstance(schema, dict):
        assert isinstance(value, dict), f"{place}: no mapping"
        for name, below in value.items():
            assert name in schema or "*" in schema, f"{place}{name}: no such field"
            check(below, schema.get(name, schema.get("*")), f"{place}{name}.")
    elif isinstance(schema, list):
        assert isinstance(value, list) and value, f"{place}: no list"
        for i, below in enumerate(value):
            check(below, schema[0], f"{place}{i}.")
    elif isinstance(schema, re.Pattern):
        assert isinstance(value, str) and schema.fullmatch(value), f"{place}: {value!r}"
    elif isinstance(schema, type):
        assert type(value) is schema, f"{place}: {value!r} is no {schema.__name__}"
    else:
        assert value == schema, f"{place}: {value!r} is not {schema!r}"


def check_job(job):
    check(job, JOB)
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert "${" not in json.dumps(job), "a value was not set"
    assert spec["completions"] >= 1 and ("backoffLimitPerIndex" not in spec or spec["completionMode"] == "Indexed")
    names = {container["name"] for container in pod["containers"]}
    for rule in spec["podFailurePolicy"]["rules"]:
        assert ("onExitCodes" in rule) != ("onPodConditions" in rule)
        assert rule.get("onExitCodes", {}).get("containerName", "delta-stream") in names
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert all(mount["name"] in volumes for c in pod["containers"] for mount in c["volumeMounts"])


def kubectl(state, line):
    """What run.sh asks of kubectl."""
    if line[:2] == ["apply", "-f"]:
        text = sys.stdin.read() if line[2] == "-" else Path(line[2]).read_text()
        text = text.replace("/models", str(state))
        manifest = yaml.safe_load(text)
        if manifest["kind"] == "ConfigMap":
            check(manifest, CONFIG)
            given = json.loads((state / "given.json").read_text())
            (state / "config.json").write_text(json.dumps({**manifest["data"], **given}))
            return 0
        return apply_job(state, manifest)
    if line[:2] == ["get", "configmap"]:
        print(json.loads((state / "config.json").read_text())[line[-1].removeprefix("jsonpath={.data.").rstrip("}")])
        return 0
    if line[0] == "wait":
        state_of = (state / line[1].replace("job/", "job-")).read_text()
        return 0 if f"--for=condition={state_of}" in line else 1
    if line[0] == "logs":
        print((state / f"{line[1].removeprefix('job/')}.log").read_text())
        return 0
    if line[:2] == ["delete", "job"]:
        for file in (f"{line[2]}.log", f"job-{line[2]}"):
            (state / file).unlink(missing_ok=True)
        return 0
    return 2


def apply_job(state, job):
    check_job(job)
    name, spec = job["metadata"]["name"], job["spec"]
    config = json.loads((state / "config.json").read_text())
    container = spec["template"]["spec"]["containers"][0]
    env = {**os.environ, **config, **{e["name"]: e["value"] for e in container["env"]}}
    indexed = spec.get("completionMode") == "Indexed"
    done = True
    for index in reversed(range(spec["completions"])):
        if indexed:
            env["JOB_COMPLETION_INDEX"] = str(index)
        done = done and pod(state, name, container, env, spec)
    (state / f"job-{name}").write_text("Complete" if done else "Failed")
    return 0


def pod(state, name, container, env, spec):
    """Runs a pod until it ends well, or badly as often as it may."""
    fails_job = {code for rule in spec["podFailurePolicy"]["rules"] for code in rule.get("onExitCodes", {}).get("values", [])}
    with open(state / f"{name}.log", "a") as log:
        for _ in range(1 + spec.get("backoffLimitPerIndex", spec.get("backoffLimit", 0))):
            code = subprocess.run([*container["command"], *container["args"]], env=env, stdout=log, stderr=log).returncode
            if code == 0 or code in fails_job:
                return code == 0
    return False


# The first attempt at part 3 is killed.
FLAKY = """#!/bin/sh
case "$*" in *"--part 3/"*)
    if [ ! -e "{state}/died" ]; then touch "{state}/died"; kill -9 $$; fi ;;
esac
exec "{program}" "$@"
"""


@unittest.skipUnless(yaml, "PyYAML is not installed")
class Manifests(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.state = Path(self.dir.name)
        bin_ = self.state / "bin"
        bin_.mkdir()
        self.script(bin_ / "kubectl", f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" kubectl "{self.state}" "$@"\n')
        self.script(bin_ / "delta-stream", FLAKY.format(state=self.state, program=PROGRAM))
        self.env = dict(os.environ, PATH=f"{bin_}{os.pathsep}{os.environ['PATH']}", IMAGE="registry/delta-stream:0.1.0")

    def script(self, path, text):
        path.write_text(text)
        path.chmod(0o755)

    def compress(self, options, ok=True):
        (self.state / "given.json").write_text(json.dumps({"PARTS": "5", "OPTIONS": options}))
        call = subprocess.run([str(HERE / "run.sh")], env=self.env, capture_output=True, text=True)
        self.assertEqual(call.returncode == 0, ok, call.stderr)
        return call

    def test_run_sh_is_bash_and_shellcheck_has_nothing_to_say(self):
        subprocess.run(["bash", "-n", str(HERE / "run.sh")], check=True)
        shellcheck = shutil.which("shellcheck")
        if not shellcheck:
            self.skipTest("shellcheck is not installed; bash -n passed")
        subprocess.run([shellcheck, str(HERE / "run.sh")], check=True)

    def test_what_is_no_job_is_refused(self):
        text = (HERE / "compress.yaml").read_text()
        for name, value in {"ROUND": "1", "PARTS": "5", "PARALLELISM": "5", "IMAGE": "i", "SURVEYS": ""}.items():
            text = text.replace(f"${{{name}}}", value)
        check_job(yaml.safe_load(text))
        for before, after in [
            ("completions: 5", "completion: 5"),
            ("completions: 5", "completions: five"),
            ("Indexed", "Index"),
            ("batch/v1", "batch/v2"),
            ("restartPolicy: Never", "restartPolicy: Always"),
            ("containerName: delta-stream", "containerName: other"),
            ("name: models, mountPath", "name: model, mountPath"),
            ("name: delta-part-1", "name: Delta_part"),
        ]:
            self.assertIn(before, text)
            with self.assertRaises(AssertionError, msg=after):
                check_job(yaml.safe_load(text.replace(before, after)))

    @unittest.skipUnless(PROGRAM, "there is no delta-stream; say where with DELTA_STREAM")
    def test_the_archive_is_that_of_one_run(self):
        sizes = "--hidden 64 --intermediate 176 --vocab 96 --layers 2 --base-shards 1 --shards 2".split()
        subprocess.run([PROGRAM, "make-pair", str(self.state), *sizes], check=True, stdout=subprocess.DEVNULL)
        (self.state / "fine-tune").rename(self.state / "ft")
        archive, one = self.state / "ft.delta.zst", self.state / "one"
        for options in ["--method dare", "--method auto --bits 1", "--method ultradelta --trace-reference 3"]:
            (self.state / "died").unlink(missing_ok=True)
            self.compress(options)
            line = [PROGRAM, "compress", "--shards", str(self.state / "ft"), "--base", str(self.state / "base")]
            subprocess.run([*line, "-o", str(one), "--force", "-q", *options.split()], check=True, stdout=subprocess.DEVNULL)
            self.assertEqual(one.read_bytes(), archive.read_bytes())
            self.assertTrue((self.state / "died").exists())
            self.assertFalse((self.state / "ft.delta.zst.parts").exists())
            archive.unlink()
        call = self.compress("--method auto --bits 99", ok=False)
        self.assertIn("out of range", call.stderr)
        self.assertFalse(archive.exists())


if __name__ == "__main__":
    if sys.argv[1:2] == ["kubectl"]:
        sys.exit(kubectl(Path(sys.argv[2]), sys.argv[3:]))
    unittest.main(verbosity=2)
