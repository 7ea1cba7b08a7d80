"""Runs commands inside a memory control group (version 1), and says what they took."""
import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from disk import drop_caches

GROUPS = Path("/sys/fs/cgroup")
# Joins the groups, then becomes the command.
JOIN = 'for group in $0; do echo $$ > "$group/cgroup.procs" || exit; done; exec "$@"'


class Failed(Exception):
    """A command that did not end well; what it said last."""


@dataclass(frozen=True)
class Cost:
    """What one step took; bytes are those of the loop device, the peaks those of its group and largest process."""

    seconds: float
    cpu: float
    read: int
    written: int
    group_peak: int
    rss_peak: int


class Group:
    """A control group on a disk for the time of a `with`.

    Page cache counts against its limit of memory. With `read_mb_s` it reads no faster than so many MB a second.
    """

    def __init__(self, disk, limit_mib, read_mb_s):
        self.disk, self.limit, self.read_mb_s = disk, limit_mib << 20, read_mb_s
        kinds = ["memory", "blkio"] if read_mb_s else ["memory"]
        self.dirs = [GROUPS / kind / f"scale-{os.getpid()}" for kind in kinds]

    def __enter__(self):
        try:
            self.make()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_):
        self.write("memory.force_empty", 0)
        self.remove()

    def make(self):
        for directory in self.dirs:
            if not (directory.parent / "cgroup.procs").exists():
                raise SystemExit(f"{directory.parent} is no control group of version 1")
            directory.mkdir()
        self.write("memory.limit_in_bytes", self.limit)
        if self.read_mb_s:
            rate = f"{self.disk.number()} {self.read_mb_s * 10**6}"
            (self.dirs[1] / "blkio.throttle.read_bps_device").write_text(rate)

    def remove(self):
        for directory in self.dirs:
            if directory.exists():
                directory.rmdir()

    def write(self, name, value):
        (self.dirs[0] / name).write_text(str(value))

    def run(self, *commands):
        """Runs commands side by side, on cold files, until the last has ended.

        Raises Failed if one of them fails.
        """
        drop_caches()
        self.write("memory.force_empty", 0)
        self.write("memory.max_usage_in_bytes", 0)
        with tempfile.TemporaryFile("w+") as said:
            before, start = self.disk.moved(), time.monotonic()
            usages = self.wait(commands, said)
            seconds = time.monotonic() - start
            said.seek(0)
            lines = said.read().strip().splitlines()
        for command, (status, _) in zip(commands, usages):
            code = os.waitstatus_to_exitcode(status)
            if code:
                raise Failed(f"{Path(command[0]).name} {command[1]} ended with {code}: {lines[-1] if lines else ''}")
        read, written = (b - a for a, b in zip(before, self.disk.moved()))
        return Cost(
            seconds, sum(u.ru_utime + u.ru_stime for _, u in usages), read, written,
            int((self.dirs[0] / "memory.max_usage_in_bytes").read_text()), max(u.ru_maxrss for _, u in usages) << 10,
        )

    def wait(self, commands, said):
        """(status, rusage) of each command."""
        jobs = []
        try:
            for command in commands:
                argv = ["sh", "-c", JOIN, " ".join(map(str, self.dirs)), *command]
                jobs.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=said))
            usages = []
            for job in jobs:
                _, status, usage = os.wait4(job.pid, 0)
                job.returncode = os.waitstatus_to_exitcode(status)
                usages.append((status, usage))
            return usages
        finally:
            for job in jobs:
                if job.returncode is None:
                    job.kill()
                    job.wait()
            self.end_children()

    def end_children(self):
        """Ends what the commands started and left behind in the group."""
        while pids := (self.dirs[0] / "cgroup.procs").read_text().split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.1)
