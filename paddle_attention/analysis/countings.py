"""The papers' conventions: how the work of a network is added up to one number.

``work`` has operations by kind, as :class:`Complexity` describes them.
"""

from __future__ import annotations

from collections.abc import Mapping

Work = Mapping[str, float]  # operations by kind; 0 for a kind that is not there


def macs(work: Work) -> float:
    """He et al., arXiv 1512.03385: multiply-adds of convolutions, fully connected layers, matrix products."""
    return work["conv"] + work["matmul"]


def adds(work: Work) -> float:
    """Also the residual additions."""
    return macs(work) + work["add"]


def senet(work: Work) -> float:
    """Hu et al., arXiv 1709.01507, Tables 10 to 16: also the squeeze (an addition per number) and the scaling."""
    return macs(work) + (work["global_pool"] + work["multiply"] if work["multiply"] else 0)


def axpy(work: Work) -> float:
    """The same authors' Table 2: scaling and residual addition as one multiply-add, also in the plain networks."""
    squeeze = work["global_pool"] if work["multiply"] else 0
    return macs(work) + squeeze + max(work["multiply"], work["add"])


def thop(work: Work) -> float:
    """The tool thop: also normalisation (2 per number)."""
    return macs(work) + 2 * work["norm"]


def ptflops(work: Work) -> float:
    """The tool ptflops: also normalisation (2 per number), activations and pooling (1 per number)."""
    return macs(work) + 2 * work["norm"] + work["activation"] + work["pool"] + work["global_pool"]


#: Ways to add up the work of a network, by name.
COUNTINGS = {
    "macs": macs,
    "adds": adds,
    "senet": senet,
    "axpy": axpy,
    "thop": thop,
    "ptflops": ptflops,
}
