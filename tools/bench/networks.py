"""The networks that are measured: a backbone bare and with each mechanism, exported once for every engine."""

import json
import os

# What weighs all positions for each goes after stages 3 and 4, BAM after stages 1 to 3, all else into every block, as in
# the papers.
AGGREGATES = {"at": "stage", "stages": [3, 4]}
PLACES = {"BAM": {"at": "stage", "stages": [1, 2, 3]}, "SpatialAttention": {}}
# How often the map must be read or written, at least: once for the statistics, twice for the product with the gate.
PASSES = {"CBAM": 4, "TripletAttention": 4, "BAM": 3}
USUAL_PASSES = 3
# Where a bottleneck's last convolution stands before attention, the statistics are of a map of a quarter of the channels.
BOTTLENECKS = ("resnet50", "resnet101", "resnet152", "resnext", "wide_resnet")
BOTTLENECK_PASSES = {"SE": 2.25, "GCBlock": 2.5}


def place(entry):
    """Where a mechanism is put."""
    spatial = entry.domain == "spatial" or entry.name in ("CAM", "DAModule")
    return PLACES.get(entry.name, AGGREGATES if spatial else {})


def build(name, backbone):
    """The backbone of ``paddle.vision.models`` with a mechanism, or bare where ``name`` is 'bare'."""
    import paddle
    from paddle.vision import models

    from paddle_attention import get_attention, insert_attention

    paddle.seed(0)
    network = getattr(models, backbone)(num_classes=1000)
    if name != "bare":
        insert_attention(network, name, **place(get_attention(name)))
    network.eval()
    return network


def export(name, backbone, size, directory, formats):
    """Export a network, verified, unless that is done; writes what is known of it beside it."""
    from paddle_attention.analysis import count_complexity
    from paddle_attention.deploy import export_inference_model
    from paddle_attention.files import has_manifest

    facts_path = os.path.join(directory, "facts.json")
    if has_manifest(os.path.join(directory, "inference")) and os.path.exists(facts_path):
        with open(facts_path, encoding="utf-8") as file:
            facts = json.load(file)
        if set(formats) <= set(facts["formats"]):
            return facts
    network = build(name, backbone)
    counts = count_complexity(network, [3, size, size])
    export_inference_model(
        network,
        directory,
        [3, size, size],
        activation=None,
        formats=formats,
        batch_sizes=(1,),
        onednn=(True,),
        tolerance=1e-3,  # of a whole untrained network
        report=lambda line: None,
    )
    facts = {
        "formats": list(formats),
        "parameters": counts.params,
        "multiply_adds": counts.flops(),
        "map_bytes": map_bytes(network, size),
        "passes": passes(name, backbone),
    }
    with open(facts_path, "w", encoding="utf-8") as file:
        json.dump(facts, file)
    return facts


def passes(name, backbone):
    """How often the map that a mechanism transforms passes through memory, at least."""
    usual = PASSES.get(name, USUAL_PASSES)
    return BOTTLENECK_PASSES.get(name, usual) if backbone.startswith(BOTTLENECKS) else usual


def map_bytes(network, size):
    """Bytes in float32 of all maps that attention transforms, for one image."""
    import paddle

    from paddle_attention.insertion.records import records

    layers = dict(network.named_sublayers())
    totals, handles = [], []

    def note(layer, inputs, output):
        y = output[0] if isinstance(output, (list, tuple)) else output
        totals.append(4 * int(y.size))

    for record in records(network):
        for insertion in record.insertions:
            handles.append(layers[insertion.key].register_forward_post_hook(note))
    with paddle.no_grad():
        network(paddle.zeros([1, 3, size, size]))
    for handle in handles:
        handle.remove()
    return sum(totals)
