"""The table of configurations that every mechanism is tested in, with its NumPy reference."""

from functools import partial

import numpy as np
import reference
from layer_tester import Case

GATED = partial(partial, gate=reference.doubled(reference.sigmoid))
CHANNELS = "n c 1 1"
PIXELS = "n 1 h w"
EVERY = "n c h w"
AMONG = "n l l"  # positions among positions; l is h * w
# The key's bias adds the same to all energies of a query, which the softmax does not see.
KEY_BIAS = ("key_conv.bias",)


def scaled(x, maps):
    """The input times every map."""
    for gate in maps.values() if isinstance(maps, dict) else [maps]:
        x = x * gate
    return x


BOTH_FUSIONS = ("channel_add", "channel_mul")
# From here on sizes are interpolated, in Paddle with float32 factors.
RESIZED = {"tolerance": 1e-6}
TWO = ((2, 2), (2, 9), (6, 4))  # the smallest maps where a 2 x 2 window must fit
TOP4 = ((0, 0), (0, 1), (6, 0), (0, 5))


def emau_constants(stages):
    """Expectation-maximisation has no gradient: its result is a constant."""
    return lambda x, p: {"rebuilt": reference.expectation_maximisation(x, p, stages)[1]}


CASES = [
    # channel gates
    Case("SE", reference.se, {"reduction": 4}, applied=scaled, maps=CHANNELS, start="gate"),
    Case("SE", reference.se, {"reduction": 8, "bias": False}, (3, 8, 6, 4)),
    Case("SE", reference.se, {"hidden_channels": 3}, (1, 5, 4, 4)),
    Case("SE", partial(reference.se, gate=reference.hard_sigmoid), {"reduction": 2, "gate": "hard_sigmoid"}),
    Case("SE", GATED(reference.se), {"reduction": 2, "identity_init": True}),
    Case("SE", partial(reference.se, squeeze=False), {"reduction": 2, "squeeze": False}),
    Case("ECA", reference.eca, {"k_size": 3}, applied=scaled, maps=CHANNELS, start="gate"),
    Case("ECA", reference.eca, {}, (2, 70, 4, 3)),
    Case("GCT", reference.gct, {}, applied=scaled, maps=CHANNELS, start="identity"),
    Case("GCT", partial(reference.gct, mode="l1"), {"mode": "l1"}),
    Case(
        "FcaLayer",
        partial(reference.fca, frequencies=TOP4),
        {"reduction": 2, "freq_sel_method": "top4"},
        applied=scaled,
        maps=CHANNELS,
        start="gate",
        tolerance=1e-7,  # the basis is float32
    ),
    Case(
        "FcaLayer",
        partial(reference.fca, frequencies=((0, 0), (0, 1))),
        {"reduction": 1, "freq_sel_method": "low2"},
        (2, 4, 7, 7),
        tolerance=1e-7,
    ),
    Case(
        "ChannelAttention",
        reference.channel_attention,
        {"reduction": 4},
        applied=scaled,
        maps=CHANNELS,
        start="gate",
    ),
    Case(
        "ChannelAttention",
        partial(reference.channel_attention, pools=("max",)),
        {"hidden_channels": 3, "pool_types": ["max"], "bias": False},
    ),
    # spatial and mixed gates
    Case("SpatialAttention", reference.spatial_attention, applied=scaled, maps=PIXELS, start="gate"),
    Case(
        "SpatialAttention",
        partial(reference.spatial_attention, bn=False),
        {"kernel_size": 3, "bn": False},
        (2, 5, 9, 4),
    ),
    Case(
        "CBAM",
        reference.cbam,
        {"reduction": 4},
        applied=scaled,
        maps={"channel": CHANNELS, "spatial": PIXELS},
        start="gate",
    ),
    Case("CBAM", partial(reference.cbam, bn=False), {"reduction": 2, "spatial_bn": False}, (1, 4, 3, 8)),
    Case("CBAM", partial(reference.cbam, spatial=False), {"reduction": 2, "no_spatial": True}),
    Case(
        "CBAM",
        partial(reference.cbam, pools=("avg",)),
        {"reduction": 2, "pool_types": "avg", "kernel_size": 5},
    ),
    Case("BAM", reference.bam, {"reduction": 4}, (3, 8, 10, 9), applied=scaled, maps=EVERY),
    Case(
        "BAM",
        partial(reference.bam, combine=np.add, dilation=2),
        {"reduction": 2, "combine": "add", "dilation_val": 2},
        (2, 4, 5, 9),
    ),
    Case(
        "SGE",
        partial(reference.sge, groups=2),
        {"groups": 2},
        applied=lambda x, m: x * m.repeat(4, axis=1),
        maps="n 2 h w",
        start="gate",
    ),
    Case("SGE", partial(reference.sge, groups=6), {"groups": 6}, (2, 6, 3, 4)),
    Case(
        "CoordAttention",
        reference.coord,
        {"reduction": 4},
        applied=scaled,
        maps={"row": "n c h 1", "column": "n c 1 w"},
        start="gate",
    ),
    Case("CoordAttention", GATED(reference.coord), {"identity_init": True}, (2, 5, 4, 9)),
    Case("SimAM", reference.simam, applied=scaled, maps=EVERY),
    Case("SimAM", partial(reference.simam, e_lambda=0.1), {"e_lambda": 0.1}, (2, 3, 6, 4)),
    Case(
        "TripletAttention",
        reference.triplet,
        applied=lambda x, m: x * (m["cw"] + m["hc"] + m["hw"]) / 3,
        maps={"cw": "n c 1 w", "hc": "n c h 1", "hw": PIXELS},
        start="gate",
    ),
    Case(
        "TripletAttention",
        partial(reference.triplet, spatial=False),
        {"no_spatial": True, "kernel_size": 3},
        (2, 4, 6, 5),
    ),
    Case(
        "scSE",
        reference.scse,
        applied=lambda x, m: np.maximum(x * m["channel"], x * m["spatial"]),
        maps={"channel": CHANNELS, "spatial": PIXELS},
        start="gate",
    ),
    Case("scSE", partial(reference.scse, join=np.add), {"reduction": 4, "aggregate": "add"}),
    Case(
        "GatherExcite", reference.gather_excite, {"reduction": 4}, applied=scaled, maps=CHANNELS, start="gate"
    ),
    Case(
        "GatherExcite",
        partial(reference.gather_excite, extent=2, mlp=False),
        {"extent": 2, "use_mlp": False},
        (2, 3, 7, 4),
    ),
    Case(
        "GatherExcite",
        partial(reference.gather_excite, extent=4, params=2),
        {"extent": 4, "extra_params": True, "reduction": 2},
        (2, 4, 9, 6),
    ),
    Case(
        "GatherExcite",
        partial(reference.gather_excite, params=1),
        {"extra_params": True, "feat_size": [5, 7], "reduction": 2},
        (3, 4, 5, 7),
        sizes=((5, 7),),
    ),
    Case(
        "PolarizedSelfAttention",
        reference.polarized,
        applied=lambda x, m: x * m["channel"] + x * m["spatial"],
        maps={"channel": CHANNELS, "spatial": PIXELS},
    ),
    Case(
        "PolarizedSelfAttention",
        partial(reference.polarized, parallel=False),
        {"mode": "sequential"},
        (2, 32, 4, 6),
    ),
    Case(
        "ShuffleAttention",
        partial(reference.shuffle, groups=2),
        {"groups": 2},
        maps={"channel": "n 4 1 1", "spatial": "n 4 h w"},
    ),
    Case("ShuffleAttention", partial(reference.shuffle, groups=1), {"groups": 1}, (2, 6, 3, 4)),
    Case(
        "SqueezeAttention",
        reference.squeeze_attention,
        {},
        (2, 4, 6, 7),
        applied=lambda x, m: x * m + m,
        maps=EVERY,
        **RESIZED,
    ),
    Case(
        "SqueezeAttention",
        partial(reference.squeeze_attention, main=True, activation=reference.relu, size=3),
        {"main_branch": True, "activation": "relu", "pool_size": 3},
        (2, 4, 7, 5),
        **RESIZED,
    ),
    Case(
        "HardAttention",
        reference.hard,
        {},
        applied=scaled,
        maps=PIXELS,
        dead=("score.*",),
        differentiable=False,
    ),
    Case(
        "HardAttention",
        partial(reference.hard, k=3, channel=True),
        {"k": 3, "domain": "channel", "estimator": "score_function"},
        maps=CHANNELS,
        dead=("score.*",),
        differentiable=False,
    ),
    Case(
        "SpatialTransformer",
        partial(reference.spatial_transformer, size=2),
        {"pool_size": 2, "reduction": 1},
        (2, 4, 5, 6),
        gentle=True,
        maps="n h w 2",
    ),
    Case(
        "SpatialTransformer",
        partial(reference.spatial_transformer, align_corners=True),
        {"reduction": 2, "align_corners": True},
        (2, 4, 6, 5),
        gentle=True,
    ),
    # context by attention among positions or channels
    *(
        Case(
            "NonLocal2D",
            partial(reference.non_local, mode=mode, sub_sample=sub_sample, bn=bn),
            {"mode": mode, "sub_sample": sub_sample, "bn": bn},
            (3, 6, 6, 5),
            sizes=TWO if sub_sample else None,
            maps="n l 6" if sub_sample else AMONG,
            start="identity",
            dead=("phi.bias",) if mode == "embedded_gaussian" else (),
        )
        for mode, sub_sample, bn in (
            ("embedded_gaussian", True, True),
            ("embedded_gaussian", False, False),
            ("gaussian", True, False),
            ("gaussian", False, True),
            ("dot_product", True, True),
            ("dot_product", False, False),
            ("concatenation", True, False),
            ("concatenation", False, True),
        )
    ),
    Case("GCBlock", reference.gc, {"ratio": 0.5}, maps=PIXELS, start="identity", dead=("conv_mask.bias",)),
    Case(
        "GCBlock",
        partial(reference.gc, fusions=BOTH_FUSIONS),
        {"ratio": 0.25, "fusion_types": list(BOTH_FUSIONS)},
        (2, 12, 4, 6),
        dead=("conv_mask.bias",),
    ),
    Case(
        "GCBlock",
        partial(GATED(reference.gc), att=False, fusions=("channel_mul",), eps=1e-6),
        {
            "ratio": 0.5,
            "pooling_type": "avg",
            "fusion_types": "channel_mul",
            "identity_init": True,
            "epsilon": 1e-6,
        },
        start="identity",
        maps=None,
    ),
    Case(
        "SimplifiedNonLocal",
        reference.simplified_non_local,
        maps=PIXELS,
        start="identity",
        dead=("conv_mask.bias",),
    ),
    Case("PAM", reference.pam, weights_of=2, maps=AMONG, start="identity", dead=KEY_BIAS),
    Case("PAM", reference.pam, {"reduction": 2}, (1, 6, 3, 8), dead=KEY_BIAS),
    Case("CAM", reference.cam, {}, (2, 5, 3, 4), weights_of=2, maps="n c c", start="identity"),
    Case(
        "DAModule",
        reference.da_module,
        {"dropout": 0.0},
        (2, 32, 3, 4),
        maps={"position": "n l l", "channel": "n 8 8"},
        weights_of=2,
        dead=("sa.key_conv.bias",),
    ),
    Case(
        "BaseOC",
        reference.base_oc,
        {"dropout": 0.0},
        (2, 6, 5, 4),
        weights_of=2,
        maps=[AMONG],
        tolerance=1e-7,  # the effective momentum of a shared normalisation is float32
    ),
    Case(
        "BaseOC",
        partial(reference.base_oc, sizes=(1, 2), abs_gamma=True),
        {"dropout": 0.0, "sizes": [1, 2], "key_channels": 3, "value_channels": 5, "abs_gamma": True},
        (2, 6, 5, 6),
        sizes=TWO,
        **RESIZED,
    ),
    Case(
        "PyramidOC",
        partial(reference.pyramid_oc, sizes=(1, 2)),
        {"dropout": 0.0, "sizes": [1, 2]},
        (2, 4, 5, 7),
        sizes=TWO,
        maps=[AMONG, ["n 6 6", "n 8 8", "n 9 9", "n 12 12"]],
    ),
    Case(
        "PyramidOC",
        partial(reference.pyramid_oc, sizes=(3,), abs_gamma=True),
        {"dropout": 0.0, "sizes": 3, "abs_gamma": True},
        (2, 4, 7, 6),
        sizes=((3, 3), (5, 9)),
    ),
    Case(
        "ASPOC",
        partial(reference.asp_oc, dilations=(1, 2, 3)),
        {"dropout": 0.0, "dilations": [1, 2, 3]},
        (2, 6, 5, 6),
        sizes=TWO,
        weights_of=2,
        maps="n 6 6",
        **RESIZED,
    ),
    Case(
        "CrissCrossAttention",
        reference.criss_cross,
        maps={"column": "n h w h", "row": "n h w w"},
        start="identity",
        dead=KEY_BIAS,
    ),
    Case("CrissCrossAttention", reference.criss_cross, {"reduction": 2}, (2, 4, 7, 3), dead=KEY_BIAS),
    Case(
        "RCCA",
        reference.rcca,
        {"dropout": 0.0},
        (2, 32, 4, 3),
        maps=[{"column": "n h w h", "row": "n h w w"}] * 2,
        dead=("cca.key_conv.bias",),
    ),
    Case(
        "RCCA",
        partial(reference.rcca, recurrence=1, abs_gamma=True),
        {"dropout": 0.0, "recurrence": 1, "abs_gamma": True},
        (2, 32, 3, 4),
        dead=("cca.key_conv.bias",),
    ),
    Case(
        "EMAU",
        reference.emau,
        {"k": 3},
        (3, 6, 4, 5),
        weights_of=2,
        maps="n l 3",
        dead=("conv1.*",),
        constants=emau_constants(3),
    ),
    Case(
        "EMAU",
        partial(reference.emau, stages=1),
        {"k": 5, "stage_num": 1},
        (2, 4, 6, 3),
        dead=("conv1.*",),
        constants=emau_constants(1),
    ),
    Case(
        "DoubleAttention",
        reference.double_attention,
        maps={"gather": "n 2 h w", "distribute": "n 2 h w"},
        start="identity",
        dead=("conv_b.bias",),
    ),
    Case(
        "DoubleAttention",
        reference.double_attention,
        {"c_m": 3, "c_n": 4},
        (2, 5, 4, 3),
        dead=("conv_b.bias",),
    ),
    Case(
        "ExternalAttention", reference.external, {"k": 5}, weights_of=1, maps="n 5 h w", dead=("conv1.bias",)
    ),
    Case(
        "SelfAttention2D",
        partial(reference.self_attention, heads=2),
        {"num_heads": 2},
        weights_of=3,
        maps="n 2 l l",
        start="identity",
        dead=KEY_BIAS,
    ),
    Case(
        "SelfAttention2D",
        partial(reference.self_attention, heads=1, relative=(3, 4)),
        {"num_heads": 1, "relative_size": [3, 4]},
        (2, 4, 4, 5),
        maps="n 1 l l",
        dead=KEY_BIAS,
    ),
    *(
        Case(
            "PSAModule",
            partial(reference.psa, kinds=kinds, size=size, shrink=shrink),
            {"psa_type": psa_type, "mask_h": size[0], "mask_w": size[1], "shrink_factor": shrink},
            (3, 8, 5, 7),
            weights_of=2,
            maps=dict.fromkeys(kinds, "n 12 12" if shrink == 2 else AMONG),
            tolerance=1e-6 if shrink == 2 else 1e-9,
        )
        for psa_type, kinds, size, shrink in (
            (0, ("collect",), (5, 7), 2),
            ("distribute", ("distribute",), (3, 15), 1),
            (2, ("collect", "distribute"), (4, 6), 1),
        )
    ),
    Case(
        "PSAModule",
        partial(reference.psa, size=(3, 4), shrink=2, compact=True, f=12.0),
        {"mask_h": 3, "mask_w": 4, "compact": True, "normalization_factor": None, "mid_channels": 5},
        (3, 8, 5, 7),
        sizes=((5, 7), (6, 8)),
        **RESIZED,
    ),
    # convolutions
    Case(
        "SKConv",
        partial(reference.sk, dilations=(1, 2), groups=(1, 4)),
        {"dilations": [1, 2], "groups": [1, 4], "reduction": 2},
        (3, 8, 5, 7),
        weights_of=1,
        maps="n 2 8 1 1",
    ),
    Case(
        "SKConv",
        partial(reference.sk, dilations=(1, 2, 3), groups=(2, 2, 2), stride=2),
        {"M": 3, "dilations": [1, 2, 3], "groups": 2, "stride": 2, "out_channels": 6, "min_hidden": 3},
        (3, 4, 6, 5),
    ),
    Case(
        "SKConv",
        partial(reference.sk, split=True),
        {"groups": 1, "split_input": True, "min_hidden": 5},
        (3, 6, 4, 4),
    ),
    Case("SplitAttention", reference.split_attention, {}, (3, 8, 5, 6), weights_of=1, maps="n 2 8 1 1"),
    Case(
        "SplitAttention",
        partial(reference.split_attention, radix=3, groups=2, stride=2),
        {"radix": 3, "groups": 2, "stride": 2, "out_channels": 4, "bias": True},
        (3, 12, 6, 5),
    ),
    Case(
        "SplitAttention",
        partial(reference.split_attention, radix=1),
        {"radix": 1},
        (3, 4, 5, 3),
        maps="n 1 4 1 1",
    ),
]
