"""Pictures of attention, drawn with matplotlib: colours that are even to the eye, and a scale bar on every map."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import write_atomically
from .attention_maps import AttentionMap
from .cam import Faithfulness, enlarge
from .excitation import Excitation
from .fonts import let_read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAP_COLOURS, _FEATURE_COLOURS = "viridis", "magma"
_PANEL = 2.3  # inches
_UNITS = 3  # of several maps of one layer, those that are most concentrated


@dataclass(frozen=True)
class Panel:
    """One small picture: a title, and what draws it into its axes."""

    title: str
    draw: Callable[[Any], None]


def save(figure: Figure, path: str, dpi: int = 110) -> str:
    """Write ``figure`` to ``path`` (.png, .svg or .pdf) in one step; returns the path."""
    ending = path.rpartition(".")[2]
    let_read(figure)
    write_atomically(path, lambda file: figure.savefig(file, format=ending, dpi=dpi))
    return path


def new_figure(width: float, height: float) -> Figure:
    """A figure that no window belongs to.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("pictures need matplotlib; run pip install matplotlib") from error
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def draw_rows(rows: Sequence[tuple[str, Sequence[Panel]]], title: str = "") -> Figure:
    """A figure of rows of panels, each row with a heading."""
    columns, lines = max((len(panels) for _, panels in rows), default=1), max(len(rows), 1)
    width, height = (_PANEL + 0.5) * columns + 0.2, (_PANEL + 0.7) * lines + 0.4
    figure = new_figure(width, height)
    figure.suptitle(title, fontsize=10, y=1 - 0.1 / height, parse_math=False)
    for line, (heading, panels) in enumerate(rows):
        top = height - 0.4 - line * (_PANEL + 0.7)  # in inches from below, as all here
        figure.text(0.1 / width, (top - 0.05) / height, heading, fontsize=9, va="top", parse_math=False)
        for column, panel in enumerate(panels):
            left, bottom = 0.3 + column * (_PANEL + 0.5), top - 0.45 - (_PANEL - 0.15)
            axis = figure.add_axes(
                (left / width, bottom / height, (_PANEL - 0.15) / width, (_PANEL - 0.15) / height)
            )
            axis.set_title(panel.title, fontsize=8, pad=3, parse_math=False)
            panel.draw(axis)
    return figure


def photo_panel(photo: np.ndarray, title: str = "image", point: tuple[float, float] | None = None) -> Panel:
    """The photograph, and the query position on it."""

    def draw(axis: Axes) -> None:
        axis.imshow(photo)
        _mark(axis, photo.shape[:2], point)
        axis.axis("off")

    return Panel(title, draw)


def map_panel(
    photo: np.ndarray, values: np.ndarray, title: str, point: tuple[float, float] | None = None
) -> Panel:
    """A map over the photograph, with its scale."""

    def draw(axis: Axes) -> None:
        height, width = photo.shape[:2]
        axis.imshow(photo.mean(axis=2), cmap="gray")
        shown = enlarge(values[None], (height, width))[0]
        layer = axis.imshow(shown, cmap=_MAP_COLOURS, alpha=0.7)
        _mark(axis, (height, width), point)
        _scale(axis, layer)

    return Panel(title, draw)


def feature_panel(values: np.ndarray, title: str, limits: tuple[float, float] | None = None) -> Panel:
    """A feature map or a matrix by itself, with its scale."""

    def draw(axis: Axes) -> None:
        low, high = limits or (None, None)
        _scale(axis, axis.imshow(values, cmap=_FEATURE_COLOURS, vmin=low, vmax=high))

    return Panel(title, draw)


def bar_panel(weights: np.ndarray, title: str, of: str = "channel") -> Panel:
    """Weights of channels, or of tokens: one bar for each."""

    def draw(axis: Axes) -> None:
        if len(weights) <= 128:
            axis.bar(range(len(weights)), weights, width=1.0)
        else:
            axis.plot(weights, linewidth=0.6)
        axis.set_xlabel(of, fontsize=7)
        axis.tick_params(labelsize=6)
        axis.set_box_aspect(1)

    return Panel(title, draw)


def _mark(axis: Axes, size: tuple[int, ...], point: tuple[float, float] | None) -> None:
    if point is not None:
        axis.plot(point[1] * size[1] - 0.5, point[0] * size[0] - 0.5, "x", color="red", markersize=9, mew=2)


def _scale(axis: Axes, layer: Any) -> None:
    axis.axis("off")
    bar = axis.figure.colorbar(layer, cax=axis.inset_axes((1.02, 0.1, 0.045, 0.8)))
    bar.ax.tick_params(labelsize=6)


def map_rows(
    photo: np.ndarray, maps: Sequence[AttentionMap], image: int, point: tuple[float, float]
) -> Iterator[tuple[str, list[Panel]]]:
    """A row for each attention map of one image: the map as its kind asks for, then before and after."""
    queried = any(found.has_query for found in maps)
    yield "", [photo_panel(photo, "image, x: query" if queried else "image", point if queried else None)]
    shown = set()
    for found in maps:
        panels = list(_weight_panels(photo, found, image, point))
        if found.layer not in shown:  # once for all maps of a layer
            shown.add(found.layer)
            panels += _before_and_after(found, image)
        size = f"{found.size[0]} tokens" if found.of_tokens else f"{found.size[0]}x{found.size[1]}"
        if panels:
            yield f"{found.title}  [{found.kind}, {size}]", panels


def _weight_panels(
    photo: np.ndarray, found: AttentionMap, image: int, point: tuple[float, float]
) -> Iterator[Panel]:
    if found.of_tokens:  # which have no place on the photograph that is known here
        yield from _token_panels(found, image, point)
        return
    if found.has_query and found.of_a_part:
        yield feature_panel(found.source_map(image, point), "weights of a query, in a part")
    elif found.has_query:
        yield map_panel(photo, found.source_map(image, point), "weights of the query", point)
    elif found.kind == "channels":
        yield feature_panel(found.values[image], "weights, channel for channel")
    elif found.kind == "grid":
        yield _grid_panel(photo, found.values[image])
    spatial = found.pixel_maps(image) if min(found.size) > 1 else np.zeros((0, 1, 1))
    order = np.argsort(-spatial.reshape(len(spatial), -1).std(axis=1))[:_UNITS] if len(spatial) else []
    for number in order:
        name = "map" if len(spatial) == 1 else f"unit {number + 1} of {len(spatial)}"
        yield map_panel(photo, spatial[number], name)
    for number, weights in enumerate(found.channel_weights(image), 1):
        name = "channel weights" if found.kind == "gate" else f"weights of branch {number}"
        yield bar_panel(weights, name)


def _token_panels(found: AttentionMap, image: int, point: tuple[float, float]) -> Iterator[Panel]:
    """Weights by token, and by channel."""
    if found.has_query:
        yield bar_panel(found.source_map(image, (point[0], 0.0)).ravel(), "weights of one token", "token")
    for values in found.pixel_maps(image)[:_UNITS]:
        yield bar_panel(values.ravel(), "weights of the tokens", "token")
    for weights in found.channel_weights(image):
        yield bar_panel(weights, "channel weights")


def _grid_panel(photo: np.ndarray, grid: np.ndarray) -> Panel:
    """Where a spatial transformer samples: the outline and the lattice of its positions on the photograph."""

    def draw(axis: Axes) -> None:
        height, width = photo.shape[:2]
        axis.imshow(photo)
        x, y = ((grid[..., 0] + 1) * width / 2 - 0.5, (grid[..., 1] + 1) * height / 2 - 0.5)
        step = max(grid.shape[0] // 8, 1)
        axis.plot(x[::step].T, y[::step].T, color="red", linewidth=0.7)
        axis.plot(x[:, ::step], y[:, ::step], color="red", linewidth=0.7)
        axis.axis("off")

    return Panel("sampled positions", draw)


def _strength(features: np.ndarray) -> np.ndarray:
    """``[h, w]``: the root mean square over channels."""
    return np.sqrt((features**2).mean(axis=0))


def _before_and_after(found: AttentionMap, image: int) -> Iterator[Panel]:
    if found.before is None or found.after is None or found.before.ndim != 4 or found.after.ndim != 4:
        return
    if min(found.size) == 1:
        return
    pictures = [_strength(features[image]) for features in (found.before, found.after)]
    low, high = min(p.min() for p in pictures), max(p.max() for p in pictures)
    for values, name in zip(pictures, ("before: RMS of channels", "after"), strict=True):
        yield feature_panel(values, name, (low, high))
    weights = found.channel_weights(image)
    if found.kind == "gate" and len(weights) and found.after.shape == found.before.shape:
        order = np.argsort(-weights[0])
        for number, name in ((order[0], "most"), (order[-1], "least")):
            yield feature_panel(
                found.after[image, number], f"channel {number}: weighs {name}, {weights[0, number]:.2f}"
            )


def draw_excitation(
    excitations: Sequence[Excitation], names: dict[int, str], within: int | None = None
) -> Figure:
    """The average activation of each channel by class, one panel a layer, as in figure 6 of the SE paper.

    Args:
        excitations: what :func:`record_excitation` found.
        names (dict): classes to what the legend calls them.
        within (int, optional): one class, whose mean and standard deviation are drawn instead, as in figure 7.
    """
    columns = min(4, len(excitations))
    lines = math.ceil(len(excitations) / columns)
    figure = new_figure(3.6 * columns + 0.6, 2.3 * lines + 0.6)
    axes = np.ravel(figure.subplots(lines, columns, gridspec_kw={"hspace": 0.6, "wspace": 0.25}))
    for axis, found in zip(axes, excitations, strict=False):
        for label in found.classes() if within is None else [within]:
            mean = found.mean(label)
            axis.plot(mean, linewidth=0.8, label=names.get(label, str(label)))
            if within is not None:
                spread = found.deviation(label)
                axis.fill_between(range(len(mean)), mean - spread, mean + spread, alpha=0.3)
        axis.set_title(
            f"{found.layer}\nclass decides {found.class_specificity():.2f}", fontsize=7, parse_math=False
        )
        axis.tick_params(labelsize=6)
    for axis in figure.axes[len(excitations) :]:
        axis.axis("off")
    figure.axes[0].legend(fontsize=6)
    figure.supxlabel("channel", fontsize=8)
    figure.supylabel("mean activation", fontsize=8)
    return figure


def faithfulness_panel(curves: dict[str, Faithfulness]) -> Panel:
    """Deletion (dashed) and insertion curves, with their areas."""

    def draw(axis: Axes) -> None:
        for number, (name, found) in enumerate(curves.items()):
            areas = f"{name}: del {found.deletion_area:.2f}, ins {found.insertion_area:.2f}"
            axis.plot(found.fraction, found.deletion, "--", color=f"C{number}", linewidth=0.9)
            axis.plot(found.fraction, found.insertion, color=f"C{number}", linewidth=0.9, label=areas)
        axis.set_ylim(0, 1)
        axis.set_box_aspect(1)
        axis.tick_params(labelsize=6)
        axis.legend(fontsize=5, loc="lower right")

    return Panel("deletion (dashed), insertion", draw)
