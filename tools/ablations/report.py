"""What the runs show: means, spread, paired differences and their confidence intervals."""

import statistics

from paddle_attention.analysis import paired_interval

from .networks import NETWORKS

LEAST_SEEDS = 3  # two differences that happen to be alike make a short interval


def verdict(mean, half, seeds):
    """What a difference is called."""
    if half is None or seeds < LEAST_SEEDS:
        return f"{seeds} 个种子，不能判断"
    if abs(mean) <= half:
        return "没有可分辨的差别"
    return "更好" if mean > 0 else "更差"


def rows(results, facts):
    """The cells of the table, network by network in the order of :data:`NETWORKS`."""
    base = results.get("baseline", {})
    found = []
    for name, network in NETWORKS.items():
        runs = results.get(name)
        if not runs:
            continue
        top1 = [100 * run["top1"] for run in runs.values()]
        common = sorted(set(runs) & set(base)) if name != "baseline" else []
        difference, said = "", ""
        if common:
            mean, half = paired_interval([100 * (runs[s]["top1"] - base[s]["top1"]) for s in common])
            difference = f"{mean:+.2f}" + ("" if half is None else f" ± {half:.2f}")
            said = verdict(mean, half, len(common))
        fact = facts[name]
        found.append(
            (
                network.title,
                len(runs),
                f"{statistics.fmean(top1):.2f}",
                f"{statistics.stdev(top1):.2f}" if len(top1) > 1 else "",
                difference,
                said,
                f"{fact['params'] / 1e6:.4f}",
                f"{fact['macs'] / 1e6:.2f}",
                f"{fact['seconds'] / facts['baseline']['seconds']:.2f}" if "baseline" in facts else "",
            )
        )
    return found


HEADER = (
    "网络",
    "种子数",
    "top-1 %",
    "标准差",
    "与基线之差（95% 区间）",
    "结论",
    "参数量 M",
    "乘加 M",
    "训练耗时比",
)
