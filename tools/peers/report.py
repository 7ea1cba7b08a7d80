"""What bench.py prints: the machine, the table, who does better where, what was not run, the commands."""
import datetime, os, platform, re, statistics

HEAD = ("tool", "version", "settings", "bytes", "share", "compress s", "CPU s", "MiB", "restore s", "CPU s", "MiB",
        "comes back")
NAMES = {"fine_tune_file": "FINE_TUNE", "fine_tune": "FINE_TUNE_DIR", "base_file": "BASE", "base": "BASE_DIR",
         "out": "OUT", "restored": "RESTORED", "restored_file": "RESTORED", "program": "delta-stream",
         "hanzo": "peers-hanzo", "kept": "KEPT", "include": ""}


def proc(path, pattern, default):
    try:
        with open(path) as file:
            found = re.search(pattern, file.read())
    except OSError:
        found = None
    return found[1] if found else default


def free_memory():
    return int(proc("/proc/meminfo", r"MemAvailable:\s+(\d+) kB", "0")) << 10 or 1 << 40


def machine():
    model = proc("/proc/cpuinfo", r"model name\s*: (.*)", platform.machine())
    total = int(proc("/proc/meminfo", r"MemTotal:\s+(\d+) kB", "0")) / 2**20
    return f"{model}, {os.cpu_count()} cores, {total:.0f} GiB of memory, {platform.system()} {platform.release()}"


def shown(template, **given):
    """A template as a reader would type it: names for paths, programs without their directory."""
    text = re.sub(r"\{(bin|here)\}/", "", template)
    return re.sub(r"\{(\w+)\}", lambda m: str(given.get(m[1], NAMES.get(m[1], m[1]))), text).strip()


def medians(row):
    """{(part, figure): median over rounds}"""
    return {(part, figure): statistics.median(r[part][figure] for r in row["rounds"])
            for part in ("compress", "restore") for figure in ("wall", "cpu", "peak")}


def verdict(row):
    said = sorted({r["verdict"] for r in row["rounds"]})
    return " / ".join(said)


def size(row):
    return statistics.median(r["bytes"] for r in row["rounds"])


def line(row, fine_tune_bytes):
    m, tool = medians(row), row["tool"]
    share = 100 * size(row) / fine_tune_bytes
    cells = [tool.name, row["version"], tool.settings, f"{size(row):,.0f}", f"{share:.2f} %"]
    for part in ("compress", "restore"):
        cells += [f"{m[part, 'wall']:.2f}", f"{m[part, 'cpu']:.2f}", f"{m[part, 'peak'] / 2**20:.0f}"]
    return "| " + " | ".join([*cells, verdict(row)]) + " |"


def exact(row):
    return verdict(row).startswith("bit-exact")


def betters(rows):
    """Lines: in what each lossless rival does better than delta-stream's lossless."""
    done = [row for row in rows if row["rounds"] and exact(row)]
    own = next((row for row in done if row["tool"].name == "delta-stream"), None)
    if own is None:
        return []
    ours, lines = medians(own), []
    for row in done:
        m = medians(row)
        better = [f"size {size(row) / size(own):.3f}x"] if size(row) < size(own) else []
        better += [f"{part} {figure} {m[part, figure] / ours[part, figure]:.2f}x" for part in ("compress", "restore")
                   for figure in ("wall", "cpu", "peak") if m[part, figure] < ours[part, figure]]
        if row is not own and better:
            lines.append(f"- {row['tool'].name} ({row['tool'].settings}): {', '.join(better)}")
    return lines or ["- none"]


def raw(row):
    return {"tool": row["tool"].name, "settings": row["tool"].settings, "version": row["version"],
            "refused": row["refused"], "rounds": row["rounds"]}


def text(args, bench, rows, floor, torch):
    done = [row for row in rows if row["rounds"]]
    caches = "dropped before each run" if args.cold else "warm"
    said = [f"Machine: {machine()}. Date: {datetime.date.today()}.",
            f"Pair: {args.base.name} and {args.fine_tune.name}, {bench.dtype}"
            + (" (converted)" if args.dtype else "")
            + (f", first tensors up to {args.limit:,} bytes" if args.limit else "")
            + f"; {bench.bytes[0]:,} and {bench.bytes[1]:,} bytes.",
            f"Medians of {args.rounds} rounds, tools taking turns; {args.threads} threads; page cache {caches}; MiB:"
            f" peak of resident memory, mapped files included, {floor['peak'] / 2**20:.0f} or less seen as that."]
    if torch:
        said.append(f"An import of PyTorch, in all rows of zipnn, weightscope, deltatensors and PyTorch, takes"
                    f" {torch['wall']:.2f} s and {torch['peak'] / 2**20:.0f} MiB.")
    said.append("")
    said += ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    said += [line(row, bench.bytes[1]) for row in done]
    said += ["", "Exact tools that do better than delta-stream's lossless, and by what factor:", "", *betters(rows)]
    if refused := [row for row in rows if row["refused"]]:
        said += ["", "Not in the table, or given up after some rounds:", ""]
        said += [f"- {row['tool'].name} ({row['tool'].settings}): {row['refused']}" for row in refused]
    said += ["", "Commands, compress then restore:", ""]
    said += [f"- {row['tool'].name} {row['tool'].settings}: {commands(row['tool'], args, bench)}" for row in done]
    return "\n".join(said)


def commands(tool, args, bench):
    given = {"threads": args.threads, "dtype": bench.dtype, "bytes": bench.bytes[0],
             "include": f"--include '{args.include}'" if args.include else ""}
    before = f"once, not measured: `{shown(tool.prepare)}`; " if tool.prepare else ""
    return f"{before}`{shown(tool.compress, **given)}`, `{shown(tool.restore, **given)}`"
