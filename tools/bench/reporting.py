"""What was measured, as Markdown, CSV and a plot."""

import csv
import statistics

ENGINES = {"paddle": "Paddle Inference", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def column_name(setting):
    engine, precision, batch, _ = setting.split("|")
    return f"{ENGINES[engine]}{'' if precision == 'fp32' else ' ' + precision}, {batch}"


def summarise(runs):
    """Median and spread over the processes of ``[{'ratio', 'ms', 'bare_ms'}, ...]``."""
    ratios = [run["ratio"] for run in runs]
    return {
        "ratio": statistics.median(ratios),
        "spread": max(ratios) - min(ratios),
        "ms": statistics.median(run["ms"] for run in runs),
        "bare_ms": statistics.median(run["bare_ms"] for run in runs),
        "processes": len(runs),
    }


def floor(facts, bare_ms, batch, bandwidth):
    """The least overhead: the map's passes through memory, at the bandwidth measured, over the bare network."""
    return 1 + 1000 * facts["passes"] * facts["map_bytes"] * batch / bandwidth / bare_ms


def table(results):
    """Rows of the document: a header and a list a mechanism."""
    settings = list(results["latency"])
    names = sorted(
        {n for found in results["latency"].values() for n in found}, key=lambda n: _first(results, n)
    )
    header = ["mechanism", *map(column_name, settings)]
    header += [
        "floor",
        "training step",
        "memory, MB",
        "side to the power",
        "parameters +%",
        "multiply-adds +%",
    ]
    bare = results["networks"]["bare"]
    rows = [
        [
            "(bare, ms)",
            *(f"{_bare_ms(results, s):.1f}" for s in settings),
            "",
            "",
            _memory(results, "bare"),
            "",
            "",
            "",
        ]
    ]
    for name in names:
        facts, cells = results["networks"][name], []
        for setting in settings:
            runs = results["latency"][setting].get(name)
            failed = results.get("failed", {}).get(setting, {}).get(name, "")
            cells.append(_cell(summarise(runs)) if runs else failed)
        steps = results.get("training", {}).get(name)
        lowest = floor(
            facts, _bare_ms(results, settings[0]), int(settings[0].split("|")[2]), results["bandwidth"]
        )
        rows.append(
            [
                name,
                *cells,
                f"{lowest:.2f}",
                f"{summarise(steps)['ratio']:.2f}" if steps else "",
                _memory(results, name),
                f"{results['growth'][name]:.1f}" if name in results.get("growth", {}) else "",
                f"{100 * (facts['parameters'] / bare['parameters'] - 1):.2f}",
                f"{100 * (facts['multiply_adds'] / bare['multiply_adds'] - 1):.2f}",
            ]
        )
    return header, rows


def _cell(value):
    spread = f" ± {value['spread'] / 2:.2f}" if value["processes"] > 1 else ""
    return f"{value['ratio']:.2f}{spread}"


def _memory(results, name):
    value = results.get("memory", {}).get(name)
    return f"{value:.0f}" if value else ""


def _bare_ms(results, setting):
    values = [
        run["bare_ms"]
        for runs in results["latency"][setting].values()
        if isinstance(runs, list)
        for run in runs
    ]
    return statistics.median(values) if values else float("nan")


def _first(results, name):
    for found in results["latency"].values():
        if found.get(name):
            return summarise(found[name])["ratio"]
    return float("inf")


def document(results):
    """The Markdown text."""
    from paddle_attention.analysis import markdown_table

    header, rows = table(results)
    return f"{results['network']}; {results['machine']}; {results['load']}.\n\n{markdown_table(header, rows)}"


def write_csv(results, path):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        header, rows = table(results)
        writer.writerow(header)
        writer.writerows(rows)


def plot(results, path):
    """Overhead by mechanism, a colour an engine, the floor as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings = list(results["latency"])
    names = [row[0] for row in table(results)[1][1:]]
    figure, axes = pyplot.subplots(figsize=(1.5 + 0.9 * len(names), 4.2), layout="constrained")
    width = 0.8 / len(settings)
    for i, setting in enumerate(settings):
        found = results["latency"][setting]
        known = [(x, summarise(found[n])) for x, n in enumerate(names) if found.get(n)]
        axes.bar(
            [x + (i + 0.5) * width - 0.4 for x, _ in known],
            [100 * (value["ratio"] - 1) for _, value in known],
            width,
            yerr=[50 * value["spread"] for _, value in known],
            label=column_name(setting),
            error_kw={"linewidth": 0.7},
        )
    bare, batch = _bare_ms(results, settings[0]), int(settings[0].split("|")[2])
    floors = [100 * (floor(results["networks"][n], bare, batch, results["bandwidth"]) - 1) for n in names]
    axes.hlines(
        floors, [x - 0.42 for x in range(len(names))], [x + 0.42 for x in range(len(names))], "k", lw=1.2
    )
    axes.plot([], [], "k", lw=1.2, label="memory passes alone (floor)")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_ylabel("added latency, %")
    axes.set_title(f"What attention adds to {results['network']}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
