"""What was measured, as Markdown."""
import statistics

from bench import STEPS, YARDSTICKS

COLUMNS = ("step", "read GB", "written GB", "seconds", "ratio", "group MiB", "RSS MiB", "CPU s", "cores", "archive GB")
PER_GB = ("cat", "compress", "verify", "restore", "append")


def median(costs, field):
    return statistics.median(getattr(cost, field) for cost in costs)


def line(cells):
    return "| " + " | ".join(cells) + " |"


def head(columns, n_words):
    return [line(columns), line(["---"] * n_words + ["---:"] * (len(columns) - n_words))]


def ratio(step, costs):
    """Time of a step as a multiple of its yardstick's, with the yardstick's name."""
    yardstick = YARDSTICKS.get(step)
    if yardstick is None or yardstick not in costs:
        return ""
    times = median(costs[step], "seconds") / median(costs[yardstick], "seconds")
    return f"{times:.2f} x {yardstick}"


def of_model(costs, archives):
    """Lines of one model and method; `costs` has a list for each step, `archives` the archive's bytes after some."""
    out = head(COLUMNS, 1)
    for step in (step for step in STEPS if step in costs):
        at = {name: median(costs[step], name) for name in vars(costs[step][0])}
        out.append(line([
            step,
            f"{at['read'] / 1e9:.1f}", f"{at['written'] / 1e9:.1f}", f"{at['seconds']:.1f}", ratio(step, costs),
            f"{at['group_peak'] / 2**20:.0f}", f"{at['rss_peak'] / 2**20:.0f}",
            f"{at['cpu']:.1f}", f"{at['cpu'] / at['seconds']:.2f}",
            f"{archives[step] / 1e9:.2f}" if step in archives else "",
        ]))
    return out


def per_gb(results):
    """Lines over all models: seconds and CPU seconds of each step, over GB of the fine-tune.

    `results` has (title, method, bytes of the fine-tune, costs).
    """
    steps = [step for step in PER_GB if any(step in costs for *_, costs in results)]
    columns = [f"{step} {unit}" for step in steps for unit in ("s", "CPU s")]
    out = head(["model", "method", "GB", *columns], 2)
    for title, method, size, costs in results:
        cells = [title, method, f"{size / 1e9:.1f}"]
        for step in steps:
            for field in ("seconds", "cpu"):
                cells.append(f"{median(costs[step], field) / (size / 1e9):.2f}" if step in costs else "")
        out.append(line(cells))
    return out
