"""The papers' networks as data: a backbone and what is inserted into it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..naming import lookup


@dataclass(frozen=True)
class NetworkPreset:
    """A named network.

    Attributes:
        name: the name used in YAML (``Arch.name``).
        backbone: name of the backbone that the network is built from.
        attention: the list of dicts that :func:`insert_attention` takes.
        options: further arguments of ``AttentionNet``, such as ``output_stride``; a YAML
            may give others.
    """

    name: str
    backbone: str
    attention: tuple = field(default_factory=tuple)
    options: dict = field(default_factory=dict)


_PRESETS: dict[str, NetworkPreset] = {}


def _add(name: str, backbone: str, *attention: dict[str, Any], **options: Any) -> None:
    assert name not in _PRESETS, name
    _PRESETS[name] = NetworkPreset(name, backbone, attention, options)


_DEPTHS = (18, 34, 50, 101, 152)
_DEEP = (50, 101, 152)
_MAPS = {1: 56, 2: 28, 3: 14, 4: 7}  # sizes of the feature maps of each stage at 224 x 224

# --- gates at the end of every residual branch: prefix, depths, mechanism and its arguments -----
_IN_EVERY_BRANCH = (
    ("SE", _DEPTHS, {"name": "SE", "reduction": 16}),  # arXiv 1709.01507
    ("CBAM", _DEPTHS, {"name": "CBAM", "reduction": 16}),  # 1807.06521
    ("ECA", _DEPTHS, {"name": "ECA"}),  # 1910.03151
    ("SGE", _DEEP, {"name": "SGE", "groups": 64}),  # 1905.09646
    ("SimAM", _DEPTHS, {"name": "SimAM"}),
    ("Triplet", _DEPTHS, {"name": "TripletAttention"}),  # 2010.03045
    ("Shuffle", _DEEP, {"name": "ShuffleAttention", "groups": 64}),  # 2102.00240
    ("scSE", _DEEP, {"name": "scSE"}),  # 1803.02579
)
for _prefix, _depths, _spec in _IN_EVERY_BRANCH:
    for _depth in _depths:
        _add(f"{_prefix}_ResNet{_depth}", f"ResNet{_depth}", {**_spec, "at": "residual"})

# --- SE: other backbones, and the placements of section 6 ---------------------------------------
_SE = {"name": "SE", "reduction": 16}
_add("SENet154", "ResNeXt154_64x4d", {**_SE, "at": "residual"})
_add("SE_BN_Inception", "BN_Inception", {**_SE, "at": "inception_*"})
_add("SE_InceptionV3", "InceptionV3", {**_SE, "at": "inception_block_list.*"})
_add("SE_Inception_ResNet_v2", "Inception_ResNet_v2", {**_SE, "at": "residual"})
_add("SE_PRE_ResNet50", "ResNet50", {**_SE, "at": "pre"})
_add("SE_POST_ResNet50", "ResNet50", {**_SE, "at": "block"})
_add("SE_Identity_ResNet50", "ResNet50", {**_SE, "at": "identity"})
_add("SE_3x3_ResNet50", "ResNet50", {**_SE, "at": "blocks.*.conv1"})
_add("SE_NoSqueeze_ResNet50", "ResNet50", {**_SE, "at": "residual", "squeeze": False})
# The reduction and the place are those of arXiv 1910.03151, Table 3.
_add("SE_MobileNetV2", "MobileNetV2", {"name": "SE", "reduction": 8, "at": "residual"})

# --- other gates ---------------------------------------------------------------------------------
for _depth in _DEEP:
    # After the first three stages, arXiv 1807.06514 Figure 1.
    _add(f"BAM_ResNet{_depth}", f"ResNet{_depth}", {"name": "BAM", "at": "stage", "stages": [1, 2, 3]})
    # c3 to c5 with ratio 1/16, arXiv 1904.11492 section 4.
    _add(
        f"GC_ResNet{_depth}",
        f"ResNet{_depth}",
        {"name": "GCBlock", "ratio": 1 / 16, "at": "residual", "stages": [2, 3, 4]},
    )
    _add(
        f"Fca_ResNet{_depth}",
        f"ResNet{_depth}",
        *(
            {"name": "FcaLayer", "dct_h": size, "dct_w": size, "at": "residual", "stages": stage}
            for stage, size in _MAPS.items()
        ),
    )
_GE = {"name": "GatherExcite", "extent": 0, "at": "residual"}
_add("GE_ResNet50", "ResNet50", {**_GE, "use_mlp": False})  # GE-theta-minus
for _name, _mlp in (("GE_theta_ResNet50", False), ("GE_theta_plus_ResNet50", True)):
    _add(
        _name,
        "ResNet50",
        *(
            {**_GE, "use_mlp": _mlp, "extra_params": True, "feat_size": [size, size], "stages": stage}
            for stage, size in _MAPS.items()
        ),
    )
# Before every convolution, arXiv 1909.11519; with the image's own three channels, as in the authors' code.
_GCT = {"name": "GCT", "before": True}
for _depth in _DEEP:
    _add(
        f"GCT_ResNet{_depth}",
        f"ResNet{_depth}",
        *({**_GCT, "at": place} for place in ("stem.0", "blocks.*.conv?", "blocks.*.short")),
    )
_add("ECA_MobileNetV2", "MobileNetV2", {"name": "ECA", "at": "residual"})
# After the depth-wise convolution of every expanded bottleneck, as in the authors' code.
_add("Coord_MobileNetV2", "MobileNetV2", {"name": "CoordAttention", "at": "conv[3-8].*._bottleneck_conv"})

# --- convolutions replaced -----------------------------------------------------------------------
_SK = {"name": "SKConv", "at": "conv", "M": 2, "groups": 32, "dilations": [1, 2], "reduction": 16}
for _depth in (50, 101):
    for _name in (f"SKNet{_depth}", f"SK_ResNeXt{_depth}_32x4d"):  # one network under both its names
        _add(_name, f"ResNeXt{_depth}_32x4d", {**_SK, "min_hidden": 32})
    # The authors' light form: branches of 1 and of 32 groups, both 3x3.
    _add(f"SK_ResNet{_depth}", f"ResNet{_depth}", {"name": "SKConv", "at": "conv"})

# --- after some blocks ----------------------------------------------------------------------------
_NL = {"name": "NonLocal2D", "at": "block"}
# Every other block of res3 and res4; arXiv 1711.07971 section 4. Every seventh of ResNet101's res4.
_add(
    "NL_ResNet50",
    "ResNet50",
    {**_NL, "stages": 2, "blocks": [2, 4]},
    {**_NL, "stages": 3, "blocks": [2, 4, 6]},
)
_add(
    "NL_ResNet101",
    "ResNet101",
    {**_NL, "stages": 2, "blocks": [2, 4]},
    {**_NL, "stages": 3, "blocks": [7, 14, 21]},
)
_add("NL_ResNet50_10blocks", "ResNet50", {**_NL, "stages": [2, 3]})
# Before the last block of res4.
_add("NL_ResNet50_1block", "ResNet50", {**_NL, "stages": 3, "blocks": -2})
# Five, in res3 and res4, of half the channels; arXiv 1810.11579 section 4.1.
_A2 = {"name": "DoubleAttention", "at": "block"}
_add(
    "A2_ResNet50",
    "ResNet50",
    {**_A2, "stages": 2, "blocks": [1, 3], "c_m": 256, "c_n": 256},
    {**_A2, "stages": 3, "blocks": [1, 3, 5], "c_m": 512, "c_n": 512},
)

# --- after the last stage, dilated: the context modules of segmentation ---------------------------
_CONTEXT = {
    "DA": "DAModule",  # arXiv 1809.02983
    "OC": "BaseOC",  # 1809.00916
    "CC": "RCCA",  # 1811.11721
    "EMA": "EMAU",  # 1907.13426
    "PSA": "PSAModule",
    "SA": "SqueezeAttention",  # 1909.03402
}
for _prefix, _name in _CONTEXT.items():
    for _depth in (50, 101):
        _spec = {"name": _name, "at": "stage", "stages": 4}
        _add(f"{_prefix}_ResNet{_depth}", f"ResNet{_depth}", _spec, output_stride=8)


def list_networks() -> list[str]:
    """Names of all preset networks."""
    return list(_PRESETS)


def get_network(name: object) -> NetworkPreset:
    """The :class:`NetworkPreset` called ``name``.

    Raises:
        ValueError: for an unknown name, listing the nearest known ones.
    """
    return lookup("network", name, _PRESETS)
