"""What VisualDL shows of attention during a training: gates, maps of a few photographs, the network's graph."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from paddle import nn

from ..files import write_atomically
from .attention_maps import AttentionMap, record_maps
from .cam import enlarge
from .flow import trace_flow
from .graph import visualdl_graph

logger = logging.getLogger("ppcls")

_LEAST = 96  # pixels of the shorter side of a picture


class AttentionLog:
    """Logs the attention of a network at the end of an epoch.

    Args:
        images: ``[N, 3, H, W]``, the same at every epoch, as the network takes them.
        photos: ``[H, W, 3]`` from 0 to 1, to draw on.
    """

    def __init__(self, images: np.ndarray, photos: Sequence[np.ndarray]) -> None:
        self.images, self.photos = images, photos
        self.first = True

    def __call__(self, writer: Any, network: nn.Layer, epoch: int) -> None:
        """Write to ``writer``, a ``visualdl.LogWriter``."""
        if self.first:
            self.first = False
            for number, photo in enumerate(self.photos):
                writer.add_image(tag=f"photo/{number}", img=_as_picture(photo), step=epoch)
            _add_graph(writer, network, self.images.shape[1:])
        for found in record_maps(network, self.images):
            weights = [found.channel_weights(i) for i in range(len(self.images))]
            if weights[0].size:
                writer.add_histogram(
                    tag=f"gates/{found.title}", values=np.concatenate(weights).ravel(), step=epoch
                )
            for number, photo in enumerate(self.photos):
                values = _spatial(found, number)
                if values is not None:
                    writer.add_image(
                        tag=f"maps/{found.title}/{number}", img=_overlay(photo, values), step=epoch
                    )


def _spatial(found: AttentionMap, image: int) -> np.ndarray | None:
    """One map ``[h, w]``: a gate's, or what the position in the middle attends to."""
    if found.of_tokens or found.of_a_part:
        return None
    if found.has_query:
        return found.source_map(image, (0.5, 0.5))
    maps = found.pixel_maps(image)
    return maps.mean(axis=0) if len(maps) and maps[0].size > 1 else None


def _overlay(photo: np.ndarray, values: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps

    spread = float(values.max() - values.min())
    shown = enlarge((values[None] - values.min()) / (spread or 1.0), photo.shape[:2])[0]
    return _as_picture(0.4 * photo.mean(axis=2, keepdims=True) + 0.6 * colormaps["viridis"](shown)[..., :3])


def _as_picture(values: np.ndarray) -> np.ndarray:
    """uint8, enlarged so that small images can be seen."""
    times = max(1, -(-_LEAST // min(values.shape[:2])))
    return np.kron((np.clip(values, 0, 1) * 255).astype("uint8"), np.ones((times, times, 1), "uint8"))


def _add_graph(writer: Any, network: nn.Layer, shape: tuple[int, ...]) -> None:
    """The graph, as a file of its own beside the records, which is how VisualDL keeps it."""
    try:
        graph = visualdl_graph(trace_flow(network, [1, *shape]))
        path = os.path.join(writer.logdir, f"vdlgraph.{int(time.time()):010d}.log")
        write_atomically(path, lambda file: file.write(json.dumps(graph).encode()))
    except Exception as error:  # the network's own, of any kind: the training goes on
        logger.warning(f"no graph for VisualDL: {' '.join(str(error).split()) or type(error).__name__}")
