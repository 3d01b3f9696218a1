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

What was inserted is recorded in the network (:mod:`.records`): to see what still runs, to take it
out again (:mod:`.undo`), and to keep it in a file (:mod:`.carry`). Paddle's own conversions are
made to keep it (:mod:`.conversions`); places that re-parameterisation would merge away are refused
(:mod:`.rebuilt`).
"""

from .blocks import Block
from .carry import save_attention
from .hooks import attention_prefixes, replacing_classes
from .insert import describe_blocks, insert_attention
from .records import AttentionRuns, Insertion, check_attention, watch_attention
from .request import PLACE_KEYS, PLACEMENTS
from .undo import attention_disabled, remove_attention

__all__ = [
    "PLACEMENTS",
    "PLACE_KEYS",
    "AttentionRuns",
    "Block",
    "Insertion",
    "attention_disabled",
    "attention_prefixes",
    "check_attention",
    "describe_blocks",
    "insert_attention",
    "remove_attention",
    "replacing_classes",
    "save_attention",
    "watch_attention",
]
