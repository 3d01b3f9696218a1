"""What papers print of their networks' parameters and FLOPs, and what to build to check it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..networks import get_network, list_networks

if TYPE_CHECKING:
    from .complexity import Complexity

_MILLION, _BILLION = 1e6, 1e9


@dataclass(frozen=True)
class Published:
    """One printed row.

    Attributes:
        paper: short name and arXiv id.
        table: where in it.
        title: what the row is called there.
        arch: the ``Arch`` section that builds the network.
        params: printed millions of parameters, as a string; None if not printed.
        flops: printed billions of multiply-adds, as a string; None if not printed.
        counting: which of :data:`paddle_attention.analysis.COUNTINGS` the paper uses.
        binary: its million is 2^20 and its billion 2^30.
        statistics: its parameters include running means and variances.
        size: height and width of the image.
        remark: why a number here differs from the printed one, where it does.
    """

    paper: str
    table: str
    title: str
    arch: dict
    params: str | None
    flops: str | None
    counting: str = "macs"
    binary: bool = False
    statistics: bool = False
    size: int = 224
    remark: str = ""

    def scaled(self, complexity: Complexity) -> tuple[float, float]:
        """``(millions of parameters, billions of multiply-adds)`` in the paper's units."""
        million, billion = (2**20, 2**30) if self.binary else (_MILLION, _BILLION)
        params = complexity.params + (complexity.statistics if self.statistics else 0)
        return params / million, complexity.flops(self.counting) / billion

    def agrees(self, complexity: Complexity) -> tuple[bool, bool]:
        """``(parameters, multiply-adds)``: whether each, rounded as printed, is the printed number."""
        params, flops = self.scaled(complexity)
        return _is_printed(params, self.params), _is_printed(flops, self.flops)


def _is_printed(value: float, printed: str | None) -> bool:
    return printed is None or rounded(value, printed) == printed


def rounded(value: float, printed: str) -> str:
    """``value`` with as many decimals as ``printed``."""
    return f"{value:.{len(printed.partition('.')[2])}f}"


def _net(name: str, **options: Any) -> dict[str, Any]:
    """A preset, or a network of PaddleClas as it is."""
    preset = name in list_networks()
    if (get_network(name).backbone if preset else name) in ("ResNet18", "ResNet34"):
        # PaddleClas' have a convolution in the first shortcut that the papers' have not.
        options["use_first_short_conv"] = False
    if preset:
        return {"name": name, **options}
    return {"name": "AttentionNet", "backbone": name, "attention": [], **options}


def _he(name: str, **options: Any) -> dict[str, Any]:
    """The same with the stride of each bottleneck on its first 1x1 convolution."""
    return _net(name, stride_in_1x1=True, **options)


_SE_STAGE = {"name": "AttentionNet", "backbone": "ResNet50", "stride_in_1x1": True}

_POOLS = "the pooling of this library's form of the layer is counted"
_R2 = "45.7 without the statistics, which the rows below include"
_GE = "GE-Net counts neither averaging nor scaling here: {macs:.2f}"
_SECOND = "quoted at second hand; the modules' width is deduced from the parameters"
_SA = "the paper speaks of 300 parameters; its code has 708, as here"
_COUNTS = "the paper does not say how it counts; convolutions and FC alone give {macs:.2f}"
_IR2 = "of no known form of this network: its authors' released one has 13.16 at 299 x 299"
_MBV2 = "PaddleClas' MobileNetV2 has one 1x1 convolution more (12.8 M); the paper's digits are coarse"
_THOP = "counted by an early thop, whose rules could not be recovered"
_SK101 = "the paper's ResNeXt-101 itself is 44.3, for 44.18; the difference SK makes agrees"
_OWN_SE = "the paper's own SE baseline, not described"

_TABLES = (
    # paper, table, counting, units, rows of (title, arch, params, flops[, remark])
    (
        "SENet 1709.01507",
        "Table 2",
        "axpy",
        None,
        (
            ("ResNet-50", _he("ResNet50"), None, "3.86"),
            ("SE-ResNet-50", _he("SE_ResNet50"), None, "3.87"),
            ("ResNet-101", _he("ResNet101"), None, "7.58"),
            ("SE-ResNet-101", _he("SE_ResNet101"), None, "7.60", _COUNTS),
            ("ResNet-152", _he("ResNet152"), None, "11.30"),
            ("SE-ResNet-152", _he("SE_ResNet152"), None, "11.32"),
            ("ResNeXt-50", _net("ResNeXt50_32x4d"), None, "4.24"),
            ("SE-ResNeXt-50", {"name": "SE_ResNeXt50_32x4d"}, None, "4.25", _COUNTS),
            ("ResNeXt-101", _net("ResNeXt101_32x4d"), None, "7.99", _COUNTS),
            ("SE-ResNeXt-101", {"name": "SE_ResNeXt101_32x4d"}, None, "8.00", _COUNTS),
            ("BN-Inception", _net("BN_Inception"), None, "2.03"),
            ("SE-BN-Inception", _net("SE_BN_Inception"), None, "2.04"),
            ("Inception-ResNet-v2", _net("Inception_ResNet_v2"), None, "11.75", _IR2),
            ("SE-Inception-ResNet-v2", _net("SE_Inception_ResNet_v2"), None, "11.76", _IR2),
        ),
    ),
    (
        "SENet 1709.01507",
        "Table 10",
        "senet",
        "statistics",
        tuple(
            (
                f"SE-ResNet-50, r = {r}",
                {**_SE_STAGE, "attention": [{"name": "SE", "reduction": r}]},
                params,
                None,
                _R2,
            )
            for r, params in ((2, "45.7"), (4, "35.7"), (8, "30.7"), (16, "28.1"), (32, "26.9"))
        ),
    ),
    (
        "SENet 1709.01507",
        "Table 13",
        "senet",
        "statistics",
        tuple(
            (
                f"SE_Stage_{stage + 1}",
                {**_SE_STAGE, "attention": [{"name": "SE", "stages": stage}]},
                params,
                "3.86",
            )
            for stage, params in ((1, "25.6"), (2, "25.7"), (3, "26.4"))
        ),
    ),
    (
        "SENet 1709.01507",
        "Tables 15, 16",
        "senet",
        "statistics",
        (
            ("SE_3x3", _he("SE_3x3_ResNet50"), "25.8", "3.86"),
            ("ResNet-50", _he("ResNet50"), "25.6", "3.86"),
            ("NoSqueeze", _he("SE_NoSqueeze_ResNet50"), "28.1", "4.27"),
            ("SE", _he("SE_ResNet50"), "28.1", "3.87"),
        ),
    ),
    (
        "ShuffleNetV2 1807.11164",
        "Table 6",
        "macs",
        None,
        (("SENet (SENet-154)", _net("SENet154"), None, "20.7"),),
    ),
    (
        "CBAM 1807.06521",
        "Table 4",
        "macs",
        None,
        (
            ("ResNet18", _net("ResNet18"), "11.69", "1.814"),
            ("ResNet18 + SE", _net("SE_ResNet18"), "11.78", "1.814"),
            ("ResNet18 + CBAM", _net("CBAM_ResNet18"), "11.78", "1.815"),
            ("ResNet34", _net("ResNet34"), "21.80", "3.664"),
            ("ResNet34 + SE", _net("SE_ResNet34"), "21.96", "3.664"),
            ("ResNet34 + CBAM", _net("CBAM_ResNet34"), "21.96", "3.665"),
            ("ResNet50", _he("ResNet50"), "25.56", "3.858"),
            ("ResNet50 + SE", _he("SE_ResNet50"), "28.09", "3.860"),
            ("ResNet50 + CBAM", _he("CBAM_ResNet50"), "28.09", "3.864"),
            ("ResNet101", _he("ResNet101"), "44.55", "7.570"),
            ("ResNet101 + SE", _he("SE_ResNet101"), "49.33", "7.575"),
            ("ResNet101 + CBAM", _he("CBAM_ResNet101"), "49.33", "7.581"),
            ("ResNeXt50", _he("ResNeXt50_32x4d"), "25.03", "3.768"),
            ("ResNeXt101", _he("ResNeXt101_32x4d"), "44.18", "7.508"),
        ),
    ),
    (
        "BAM 1807.06514",
        "ImageNet",
        "macs",
        None,
        (
            ("ResNet50 + BAM", _he("BAM_ResNet50"), "25.92", "3.94"),
            ("ResNet101 + BAM", _he("BAM_ResNet101"), "44.91", "7.65"),
        ),
    ),
    (
        "ECA-Net 1910.03151",
        "Table 3, README",
        "ptflops",
        "binary",
        (
            ("ECA-Net18", _net("ECA_ResNet18"), "11.15", "1.70"),
            ("ECA-Net34", _net("ECA_ResNet34"), "20.79", "3.43", _THOP),
            ("ResNet-50", _net("ResNet50"), "24.37", "3.86", _THOP),
            ("ECA-Net50", _net("ECA_ResNet50"), "24.37", "3.86", _THOP),
            ("ECA-Net101", _net("ECA_ResNet101"), "42.49", "7.35", _THOP),
            ("ECA-Net152", _net("ECA_ResNet152"), "57.40", "10.83", _THOP),
            ("SENet-50", _net("SE_ResNet50"), "26.77", "3.87", "SE without biases there; " + _THOP),
            ("MobileNetV2", _net("MobileNetV2"), "3.34", "0.3194", _THOP),
            ("SENet (MobileNetV2)", _net("SE_MobileNetV2"), "3.40", "0.3201", _THOP),
            ("ECA-Net (MobileNetV2)", _net("ECA_MobileNetV2"), "3.34", "0.3199", _THOP),
        ),
    ),
    (
        "SGE 1905.09646",
        "README",
        "ptflops",
        None,
        (
            ("ResNet50", _net("ResNet50"), "25.56", "4.122"),
            ("SE-ResNet50", _net("SE_ResNet50"), "28.09", "4.130"),
            ("SK-ResNet50 (light)", _net("SK_ResNet50"), "26.15", "4.185", _POOLS),
            ("BAM-ResNet50", _net("BAM_ResNet50"), "25.92", "4.205", _POOLS),
            ("CBAM-ResNet50", _net("CBAM_ResNet50"), "28.09", "4.139"),
            ("SGE-ResNet50", _net("SGE_ResNet50"), "25.56", "4.127", _POOLS),
            ("ResNet101", _net("ResNet101"), "44.55", "7.849"),
            ("SE-ResNet101", _net("SE_ResNet101"), "49.33", "7.863"),
            ("SK-ResNet101 (light)", _net("SK_ResNet101"), "45.68", "7.978", _POOLS),
            ("BAM-ResNet101", _net("BAM_ResNet101"), "44.91", "7.933", _POOLS),
            ("CBAM-ResNet101", _net("CBAM_ResNet101"), "49.33", "7.879"),
            ("SGE-ResNet101", _net("SGE_ResNet101"), "44.55", "7.858", _POOLS),
        ),
    ),
    (
        "SKNet 1903.06586",
        "Table 2",
        "adds",
        None,
        (
            ("ResNeXt-50", _net("ResNeXt50_32x4d"), "25.0", "4.24"),
            ("SKNet-50", _net("SKNet50"), "27.5", "4.47"),
            ("SENet-50", {"name": "SE_ResNeXt50_32x4d"}, "27.7", "4.25", _OWN_SE),
            ("SKNet-101", _net("SKNet101"), "48.9", "8.46", _SK101),
        ),
    ),
    (
        "GCNet 1904.11492",
        "ImageNet",
        "macs",
        None,
        (
            ("+1 NL", _he("NL_ResNet50_1block"), "27.66", None),
            ("+all GC", _he("GC_ResNet50"), "28.08", "3.87", _COUNTS),
        ),
    ),
    (
        "GE 1810.12348",
        "ImageNet",
        "senet",
        "statistics",
        (
            ("GE-theta-minus ResNet-50", _he("GE_ResNet50"), "25.6", "3.86", _GE),
            ("GE-theta ResNet-50", _he("GE_theta_ResNet50"), "31.2", "3.87"),
            ("GE-theta-plus ResNet-50", _he("GE_theta_plus_ResNet50"), "33.7", "3.87"),
        ),
    ),
    (
        "A2-Nets 1810.11579, in ECA-Net",
        "Table 3",
        "macs",
        None,
        (("A2-Net (ResNet-50)", _net("A2_ResNet50"), "33.00", "6.50", _SECOND),),
    ),
    (
        "Triplet 2010.03045",
        "README",
        "ptflops",
        None,
        (
            ("ResNet-18, k = 7", _net("Triplet_ResNet18"), "11.69", "1.825", _COUNTS),
            ("ResNet-50, k = 7", _net("Triplet_ResNet50"), "25.56", "4.169"),
            ("ResNet-101, k = 7", _net("Triplet_ResNet101"), "44.56", "7.95"),
        ),
    ),
    (
        "SA-Net 2102.00240",
        "Table 2",
        "ptflops",
        None,
        (
            ("SA-Net-50", _net("Shuffle_ResNet50"), "25.557", "4.125", _SA),
            ("SA-Net-101", _net("Shuffle_ResNet101"), "44.551", "7.854", _POOLS),
        ),
    ),
    (
        "FcaNet 2012.11879",
        "ImageNet",
        "ptflops",
        None,
        (
            ("FcaNet-50", _net("Fca_ResNet50"), "28.07", "4.13"),
            ("FcaNet-101", _net("Fca_ResNet101"), "49.29", "7.86"),
            ("FcaNet-152", _net("Fca_ResNet152"), "66.77", "11.60"),
        ),
    ),
    (
        "SimAM (ICML 2021)",
        "README",
        "thop",
        None,
        (
            ("SimAM-R18", _net("SimAM_ResNet18"), "11.69", "1.82"),
            ("SimAM-R34", _net("SimAM_ResNet34"), "21.80", "3.67"),
            ("SimAM-R50", _net("SimAM_ResNet50"), "25.56", "4.11"),
            ("SimAM-R101", _net("SimAM_ResNet101"), "44.55", "7.83"),
        ),
    ),
    (
        "Coordinate attention 2103.02907",
        "README",
        "macs",
        None,
        (
            ("MobileNetV2-1.0", _net("MobileNetV2"), "3.5", "0.30", _MBV2),
            ("MobileNetV2 + CA", _net("Coord_MobileNetV2"), "3.95", "0.31", _MBV2),
        ),
    ),
    (
        "ResNeSt 2004.08955",
        "Table 3",
        "macs",
        None,
        (
            ("ResNeSt-50 (PaddleClas')", {"name": "ResNeSt50"}, "27.5", "5.39", _COUNTS),
            ("ResNeSt-101 (PaddleClas')", {"name": "ResNeSt101"}, "48.3", "10.2"),
        ),
    ),
)


def _rows() -> Iterator[Published]:
    for paper, table, counting, units, rows in _TABLES:
        for title, arch, params, flops, *remarks in rows:
            size = 299 if "Inception-ResNet" in title else 224
            binary, statistics = units == "binary", units == "statistics"
            remark = remarks[0] if remarks else ""
            yield Published(
                paper, table, title, arch, params, flops, counting, binary, statistics, size, remark
            )


PUBLISHED = tuple(_rows())
