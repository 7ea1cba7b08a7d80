"""A file system of its own on a loop device, gone again at the end."""
import os
import subprocess
import time
from pathlib import Path

SECTOR = 512


def command(*argv):
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def drop_caches():
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def read_ahead_of(path):
    """KiB read ahead on the disk below `path`, or None if that is no plain disk."""
    device = path.stat().st_dev
    place = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    for queue in (place / "queue", place.parent / "queue"):
        if (queue / "read_ahead_kb").exists():
            return (queue / "read_ahead_kb").read_text().strip()
    return None


class Disk:
    """An XFS in a sparse file of `work`, mounted while the `with` lasts. The file stays there if `keep` is set."""

    def __init__(self, work, gib, keep):
        self.image, self.root = work / "scale.xfs", work / "mount"
        self.size, self.keep, self.loop = gib << 30, keep, None

    def __enter__(self):
        if self.image.exists() and command("losetup", "--associated", self.image):
            raise SystemExit(f"{self.image} is on a loop device already: another run?")
        free = os.statvfs(self.image.parent)
        if not self.image.exists() and self.size > free.f_bavail * free.f_frsize:
            raise SystemExit(f"{self.image.parent} has no room for {self.size >> 30} GiB")
        try:
            self.mount()
        except BaseException:
            self.__exit__()
            raise
        return self

    def mount(self):
        if not self.image.exists():
            with open(self.image, "wb") as f:
                f.truncate(self.size)
            command("mkfs.xfs", "-q", "-m", "reflink=1", self.image)
        self.loop = command("losetup", "--find", "--show", "--direct-io=on", self.image)
        if command("losetup", "--noheadings", "--output", "DIO", self.loop) != "1":
            raise SystemExit("the loop device does no direct I/O here, so reads would come from the page cache")
        read_ahead = read_ahead_of(self.image)
        if read_ahead:
            (self.sys() / "queue/read_ahead_kb").write_text(read_ahead)
        self.root.mkdir(exist_ok=True)
        command("mount", "-t", "xfs", self.loop, self.root)

    def __exit__(self, *_):
        if self.root.is_mount():
            command("umount", self.root)
        if self.root.exists():
            self.root.rmdir()
        if self.loop:
            command("losetup", "--detach", self.loop)
        if not self.keep:
            self.image.unlink(missing_ok=True)

    def sys(self):
        return Path("/sys/block") / Path(self.loop).name

    def number(self):
        """Major and minor number of the device."""
        return (self.sys() / "dev").read_text().strip()

    def moved(self):
        """Bytes read from and written to the device since it was made."""
        fields = (self.sys() / "stat").read_text().split()
        return int(fields[2]) * SECTOR, int(fields[6]) * SECTOR

    def used(self):
        """Bytes in use, once files that were removed are gone: XFS frees their blocks a little later."""
        before, now = None, self.free()
        while now != before:
            time.sleep(1)
            before, now = now, self.free()
        return self.size - now

    def free(self):
        s = os.statvfs(self.root)
        return s.f_bavail * s.f_frsize
