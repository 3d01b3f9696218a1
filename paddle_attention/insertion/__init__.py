"""Insert attention layers into an existing network, in place.

A request is parsed once (:mod:`.request`). The network is run once on a small input
(:mod:`.trace`); from that run come the channel counts and the structure: which layers are
residual blocks, where each block's residual branch ends, and which blocks form a stage
(:mod:`.blocks`). There are no tables of networks. Request and structure give the targets
(:mod:`.placement`), to which the attention is applied (:mod:`.insert`).

An attention layer becomes a sublayer of the layer whose output it transforms and is called by a
forward post hook of that layer (:mod:`.hooks`). So the backbone's own state_dict keys do not
change, and copies, exports and wrappers of the network carry the attention along. Mechanisms
that are convolutions themselves (SKConv) take the place of the layer instead (:mod:`.replace`).
"""

from .blocks import Block
from .hooks import attention_prefixes, replacing_classes
from .insert import Insertion, describe_blocks, insert_attention
from .request import PLACEMENTS

__all__ = [
    "PLACEMENTS",
    "Block",
    "Insertion",
    "attention_prefixes",
    "describe_blocks",
    "insert_attention",
    "replacing_classes",
]
