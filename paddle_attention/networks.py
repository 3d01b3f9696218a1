"""The papers' networks as data: a backbone and what is inserted into it."""

from dataclasses import dataclass, field

from .naming import lookup


@dataclass(frozen=True)
class NetworkPreset:
    """A named network.

    Attributes:
        name: the name used in YAML (``Arch.name``).
        backbone: name of the backbone that the network is built from.
        attention: the list of dicts that :func:`insert_attention` takes.
    """

    name: str
    backbone: str
    attention: tuple = field(default_factory=tuple)


_PRESETS = {
    f"{prefix}_ResNet{depth}": NetworkPreset(
        f"{prefix}_ResNet{depth}",
        f"ResNet{depth}",
        ({"name": prefix, "reduction": 16, "at": "residual"},),
    )
    for prefix in ("SE", "CBAM")
    for depth in (18, 34, 50, 101, 152)
}


def list_networks():
    """Names of all preset networks."""
    return list(_PRESETS)


def get_network(name):
    """The :class:`NetworkPreset` called ``name``.

    Raises:
        ValueError: for an unknown name, listing the nearest known ones.
    """
    return lookup("network", name, _PRESETS)
