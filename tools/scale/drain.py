"""Makes room behind whoever writes large files: looks at what is on the disk already, then punches it out."""
import ctypes
import mmap
import os
import threading

CELL = 64 << 20  # what is punched at once
SAMPLE = 1 << 20  # what of a cell is compared
PAUSE = 0.5  # seconds between two looks
PUNCH_HOLE_KEEP_SIZE = 3

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def punch(fd, offset, length):
    if libc.fallocate(fd, PUNCH_HOLE_KEEP_SIZE, offset, length):
        raise OSError(ctypes.get_errno(), "cannot punch a hole")


def full_cells(fd):
    """Numbers of the cells without a hole."""
    out, at, end = set(), 0, os.fstat(fd).st_size
    while at < end:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # no data any more
            break
        at = os.lseek(fd, start, os.SEEK_HOLE)
        out.update(range(-(-start // CELL), at // CELL))
    return out


def sample_offset(cell):
    """Where in a cell the sample is: another place in each, never its first or last piece.

    A neighbour of the cell may still write into the pages at its ends.
    """
    return cell * CELL + (1 + cell * 37 % (CELL // SAMPLE - 2)) * SAMPLE


def read_direct(path, offset):
    """One sample, from the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, SAMPLE) as buffer:
            n = os.preadv(fd, [buffer], offset)
            return buffer[:n]
    finally:
        os.close(fd)


class Drain(threading.Thread):
    """Punches out the full cells of all files that `files()` lists, as long as the `with` lasts.

    A cell goes once two looks found it full, after a sync of its file. Where `reference`, a directory, is given, a
    sample of each is compared with the file of the same name there first.
    """

    def __init__(self, files, reference=None):
        super().__init__(daemon=True)
        self.files, self.reference = files, reference
        self.punched, self.samples, self.differ, self.error = 0, 0, [], None
        self.full_before, self.done = {}, threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()

    def run(self):
        try:
            while not self.done.wait(PAUSE):
                self.look()
        except Exception as e:  # told by whoever waits
            self.error = e

    def look(self):
        for path in self.files():
            try:
                fd = os.open(path, os.O_RDWR)
            except FileNotFoundError:  # renamed meanwhile
                continue
            try:
                self.drain(path, fd)
            finally:
                os.close(fd)

    def drain(self, path, fd):
        full = full_cells(fd)
        ripe = full & self.full_before.get(path.name, set())
        self.full_before[path.name] = full - ripe
        if ripe:
            os.fdatasync(fd)
        for cell in sorted(ripe):
            if self.reference:
                self.compare(path, cell)
            punch(fd, cell * CELL, CELL)
            self.punched += CELL

    def compare(self, path, cell):
        offset = sample_offset(cell)
        self.samples += 1
        if read_direct(path, offset) != read_direct(self.reference / path.name, offset):
            self.differ.append(f"{path.name} at {offset}")
