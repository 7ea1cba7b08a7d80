#!/usr/bin/env python3
"""Runs one command and prints what it took, as one line of JSON.

    measure.py SECONDS COMMAND [ARGUMENT...]

Started anew for each command, so that the resource usage of its children is the command's alone: wall and CPU seconds
(of all processes it left behind it), and the peak of resident memory in bytes. That peak is the largest process's
maximum as the kernel counts it or, if the command forks, the largest sum over its processes of a look every 50 ms.
Mapped pages of files count, as does a page that two processes share, twice. A child begins with the pages of this
process, so a few MiB are the least that is seen. After SECONDS the command and all it
started are ended. What the command prints goes to standard error.
"""
import os, resource, select, signal, sys, time

LOOK_SECONDS = 0.05
STOPS = (signal.SIGINT, signal.SIGTERM)
PAGE = resource.getpagesize()


def family(pid):
    """`pid` and all processes below it that are there now."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            below = children.read().split()
    except OSError:
        return []
    return [pid, *(p for child in below for p in family(int(child)))]


def resident(pid):
    try:
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * PAGE
    except OSError:
        return 0


def watch(pid, seconds):
    """Waits for the end of a process: the largest sum over it and those below it, and whether it had to be ended."""
    largest, end, ended = 0, time.monotonic() + seconds, False
    with open(os.pidfd_open(pid)) as over:
        while not select.select([over], [], [], LOOK_SECONDS)[0]:
            pids = family(pid)
            if len(pids) > 1:
                largest = max(largest, sum(map(resident, pids)))
            if time.monotonic() > end and not ended:
                os.killpg(pid, signal.SIGKILL)
                ended = True
    return largest, ended


def run(command, seconds):
    # A stop waits until there is something to end.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    start = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ, setsid=True, setsigmask=(), file_actions=[
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, 2, 1)])
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        largest, ended = watch(pid, seconds)
    except BaseException:
        # Stopped itself: nothing is left running.
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    wall = time.monotonic() - start
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return status, int(ended), wall, used.ru_utime + used.ru_stime, max(largest, used.ru_maxrss * 1024)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # By hand: a module more would raise the floor of what can be measured.
    print('{"status": %d, "over": %d, "wall": %.6f, "cpu": %.6f, "peak": %d}' % run(sys.argv[2:], float(sys.argv[1])))
