"""python tools/backbone_matrix.py [--workers N] [--write FILE] [FAMILY ...]: every mechanism in every backbone.

For the smallest network of each PaddleClas family (and of paddle.vision) and each mechanism: built from
a YAML's Arch section, run forward and backward in train mode, exported and compared in Paddle Inference
(oneDNN on and off), and the backbone's own state_dict keys unchanged. A cell of the Markdown table is ok
or the reason. --write puts the table into a document between its markers.
--presets trains and exports this library's named networks instead, and prints a line for each.
"""

import argparse
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from paddle_attention.cli.main import set_threads  # noqa: E402

MECHANISMS = {
    "SE": {"reduction": 4},
    "CBAM": {"reduction": 4},
    "ECA": {},
    "GCBlock": {"ratio": 0.25},
    "NonLocal2D": {},
    "CoordAttention": {"reduction": 8},
    "ExternalAttention": {"k": 16},
}
GATES = ("SE", "CBAM", "ECA")
RESIDUAL, BLOCK = "residual", "block"
# family: (network, its arguments, image size, where)
FAMILIES = {
    "ResNet": ("ResNet18", {}, 64, RESIDUAL),
    "ResNet_vc": ("ResNet50_vc", {}, 64, RESIDUAL),
    "ResNet_vd": ("ResNet18_vd", {}, 64, RESIDUAL),
    "ResNeXt": ("ResNeXt50_32x4d", {}, 64, RESIDUAL),
    "ResNeXt_vd": ("ResNeXt50_vd_32x4d", {}, 64, RESIDUAL),
    "ResNeXt101_wsl": ("ResNeXt101_32x8d_wsl", {}, 64, RESIDUAL),
    "Res2Net": ("Res2Net50_26w_4s", {}, 64, RESIDUAL),
    "Res2Net_vd": ("Res2Net50_vd_26w_4s", {}, 64, RESIDUAL),
    "SE_ResNet_vd": ("SE_ResNet18_vd", {}, 64, RESIDUAL),
    "SE_ResNeXt": ("SE_ResNeXt50_32x4d", {}, 64, RESIDUAL),
    "ResNeSt": ("ResNeSt50_fast_1s1x64d", {}, 64, RESIDUAL),
    "RedNet": ("RedNet26", {}, 64, RESIDUAL),
    "RegNet": ("RegNetX_200MF", {}, 64, RESIDUAL),
    "WideResNet": (
        "WideResNet",
        {"depth": 28, "widen_factor": 2, "dropout": 0.0, "num_classes": 10},
        32,
        RESIDUAL,
    ),
    "AdaFace_IR": ("AdaFace_IR_18", {}, 112, RESIDUAL),
    "HRNet": ("HRNet_W18_C", {}, 64, RESIDUAL),
    "DLA": ("DLA34", {}, 64, RESIDUAL),
    "DPN": ("DPN68", {}, 64, "dpn*.c1x1_a_func"),
    "DSNet": ("DSNet_tiny", {}, 224, RESIDUAL),
    "DenseNet": ("DenseNet121", {}, 64, "db_conv_*"),
    "PeleeNet": ("PeleeNet", {}, 64, "features.denseblock*"),
    "HarDNet": ("HarDNet39_ds", {}, 64, "base.?"),
    "DarkNet": ("DarkNet53", {}, 64, RESIDUAL),
    "CSPNet": ("CSPDarkNet53", {}, 64, RESIDUAL),
    "AlexNet": ("AlexNet", {}, 224, "_conv*"),
    "VGG": ("VGG11", {}, 224, "conv_block_*"),
    "SqueezeNet": ("SqueezeNet1_0", {}, 64, "_conv?"),
    "GoogLeNet": ("GoogLeNet", {}, 224, "_ince*"),
    "InceptionV3": ("InceptionV3", {}, 128, "inception_block_list.*"),
    "InceptionV4": ("InceptionV4", {}, 128, "_inception?_*"),
    "BN_Inception": ("BN_Inception", {}, 64, "inception_*"),
    "Inception_ResNet_v2": ("Inception_ResNet_v2", {}, 128, RESIDUAL),
    "Xception": ("Xception41", {}, 64, RESIDUAL),
    "Xception_deeplab": ("Xception41_deeplab", {}, 64, RESIDUAL),
    "MobileNetV1": ("MobileNetV1_x0_25", {}, 64, "blocks.*"),
    "MobileNetV2": ("MobileNetV2_x0_25", {}, 64, RESIDUAL),
    "MobileNetV3": ("MobileNetV3_small_x0_35", {}, 64, RESIDUAL),
    "MobileNetV4": ("MobileNetV4_conv_small", {}, 64, RESIDUAL),
    "MobileNeXt": ("MobileNeXt_x0_35", {}, 64, RESIDUAL),
    "MobileViT": ("MobileViT_XXS", {}, 64, RESIDUAL),
    "MobileViTV2": ("MobileViTV2_x0_5", {}, 64, RESIDUAL),
    "MobileViTV3": ("MobileViTV3_XXS", {}, 64, RESIDUAL),
    "PPLCNet": ("PPLCNet_x0_25", {}, 64, "blocks*.*"),
    "PPLCNetV2": ("PPLCNetV2_small", {}, 64, BLOCK),
    "ESNet": ("ESNet_x0_25", {}, 64, "blocks.*"),
    "PPHGNet": ("PPHGNet_tiny", {}, 64, RESIDUAL),
    "PPHGNetV2": ("PPHGNetV2_B0", {}, 64, RESIDUAL),
    "FasterNet": ("FasterNet_T0", {}, 64, RESIDUAL),
    "StarNet": ("StarNet_S1", {}, 64, RESIDUAL),
    "ShuffleNetV2": ("ShuffleNetV2_x0_25", {}, 64, "?_?"),
    "GhostNet": ("GhostNet_x0_5", {}, 64, RESIDUAL),
    "EfficientNet": ("EfficientNetB0_small", {}, 64, RESIDUAL),
    "EfficientNetV2": ("EfficientNetV2_S", {}, 64, RESIDUAL),
    "TinyNet": ("TinyNet_E", {}, 64, RESIDUAL),
    "MixNet": ("MixNet_S", {}, 224, RESIDUAL),
    "ReXNet": ("ReXNet_1_0", {}, 64, RESIDUAL),
    "MicroNet": ("MicroNet_M0", {}, 64, "features.*"),
    "RepVGG": ("RepVGG_A0", {}, 64, BLOCK),
    "VAN": ("VAN_B0", {}, 64, RESIDUAL),
    "ConvNeXt": ("ConvNeXt_tiny", {}, 64, BLOCK),
    "NextViT": ("NextViT_small_224", {}, 224, RESIDUAL),
    "UniFormer": ("UniFormer_small", {}, 224, BLOCK),
    "PVT_V2": ("PVT_V2_B0", {}, 64, RESIDUAL),
    "ViT": ("ViT_small_patch16_224", {}, 224, RESIDUAL),
    "DeiT": ("DeiT_tiny_patch16_224", {}, 224, RESIDUAL),
    "Swin": ("SwinTransformer_tiny_patch4_window7_224", {}, 224, RESIDUAL),
    "SwinV2": ("SwinTransformerV2_tiny_patch4_window8_256", {}, 256, RESIDUAL),
    "CSWin": ("CSWinTransformer_tiny_224", {}, 224, RESIDUAL),
    "Twins_PCPVT": ("pcpvt_small", {}, 224, "blocks.*.*.mlp"),
    "Twins_SVT": ("alt_gvt_small", {}, 224, "blocks.*.*.mlp"),
    "LeViT": ("LeViT_128S", {}, 224, BLOCK),
    "TNT": ("TNT_small", {}, 224, "blocks.*.mlp"),
    "CvT": ("CvT_13_224", {}, 224, RESIDUAL),
    "CLIP_ViT": ("CLIP_vit_base_patch32_224", {}, 224, RESIDUAL),
    "SVTR": ("SVTR_tiny", {}, None, RESIDUAL),
    "paddle.vision ResNet": ("vision.resnet18", {}, 64, RESIDUAL),
    "paddle.vision MobileNetV2": ("vision.mobilenet_v2", {"scale": 0.25}, 64, RESIDUAL),
    "paddle.vision MobileNetV3": ("vision.mobilenet_v3_small", {"scale": 0.5}, 64, RESIDUAL),
    "paddle.vision ShuffleNetV2": ("vision.shufflenet_v2_x0_25", {}, 64, "?_?"),
    "paddle.vision DenseNet": ("vision.densenet121", {}, 64, "db_conv_*"),
    "paddle.vision VGG": ("vision.vgg11", {}, 224, "features.*"),
    "paddle.vision ResNeXt": ("vision.resnext50_32x4d", {}, 64, RESIDUAL),
}
SAMPLE = ("ResNet", "MobileNetV3", "EfficientNet", "RepVGG", "DeiT", "paddle.vision ShuffleNetV2")


def reason(error):
    """One line that says what went wrong."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    line = lines[-1] if lines else type(error).__name__
    return line.partition("; nothing was written")[0][:200].replace("|", "/")


def build(network, arguments, attention=None):
    """The network, bare or with attention, from what a YAML says."""
    import paddle

    from paddle_attention import insert_attention, ppcls

    with paddle.utils.unique_name.guard():  # some families give their parameters fixed names
        paddle.seed(0)
        if network.startswith("vision."):
            model = getattr(paddle.vision.models, network.partition(".")[2])(**arguments)
            if attention:
                insert_attention(model, attention)
            return model
        backbone = {"name": network, **arguments}
        if attention:
            return ppcls.build_network(
                {"Arch": {"name": "AttentionNet", "backbone": backbone, "attention": attention}}
            )
        return ppcls.build_network({"Arch": {"name": "AttentionNet", "backbone": backbone, "attention": []}})


def outputs(value):
    """All tensors that a network returns."""
    import paddle

    return [x for x in paddle.utils.flatten(value) if isinstance(x, paddle.Tensor)]


def train_step(model, shape):
    """Forward and backward in train mode; then forward, until the statistics are those of the data.

    Without, the maps of an untrained deep network grow with every block, and it is chaotic.
    Returns the names of attention parameters without a gradient.
    """
    import numpy as np
    import paddle

    model.train()
    for layer in model.sublayers():
        if hasattr(layer, "_momentum") and hasattr(layer, "_mean"):
            layer._momentum = 0.5
    x = paddle.to_tensor(np.random.RandomState(0).standard_normal([4, *shape]).astype("float32"))
    loss = sum((y.astype("float32") ** 2).mean() for y in outputs(model(x)))
    loss.backward()
    assert np.isfinite(float(loss)), f"the loss is {float(loss)}"
    missing = []
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient and "attention" in name and parameter.grad is None:
            missing.append(name)
    model.clear_gradients()
    with paddle.no_grad():
        for _ in range(5):
            model(paddle.randn([4, *shape]))
    return missing


def vary_constants(state):
    """Give the attention's constant parameters random values: zero-initialised ends would hide it."""
    import numpy as np

    random = np.random.RandomState(1)
    for key, value in state.items():
        if ".attention." in f".{key}" and "_variance" not in key and np.ptp(value.numpy()) == 0:
            size = 0.1 if value.ndim < 2 else 1.0 / np.sqrt(value.size / value.shape[0])
            value.set_value((value.numpy() + size * random.standard_normal(value.shape)).astype("float32"))


def tolerance(model, shape):
    """1e-4; more where the untrained network itself turns a rounding error of its input into more."""
    import numpy as np
    import paddle

    x = np.random.RandomState(2).standard_normal([2, *shape]).astype("float32")
    with paddle.no_grad():
        y, moved = (outputs(model(paddle.to_tensor(v)))[0].numpy() for v in (x, x * np.float32(1 + 2**-22)))
    response = np.abs(moved - y).max() / np.abs(y).max()
    return max(1e-4, min(10 * float(response), 1e-2))


def export(model, shape, onednn=(True, False)):
    """Export the network to a directory of no duration, and compare; raises ValueError where it differs."""
    from paddle_attention.deploy import export_inference_model

    model.eval()
    with tempfile.TemporaryDirectory() as directory:
        export_inference_model(
            model,
            directory,
            shape,
            activation=None,
            batch_sizes=(2,),
            tolerance=tolerance(model, shape),
            onednn=onednn,
            report=lambda line: None,
        )


def check(family, mechanisms, onednn):
    """``{mechanism: 'ok' or the reason}`` of one family, and how many layers attend."""
    from paddle_attention import ppcls

    ppcls.register()
    ppcls.init_logger()
    network, arguments, size, at = FAMILIES[family]
    shape = [3, size, size] if size else [3, 32, 100]
    keys, cells, places = None, {}, ""
    for name, options in [(None, None), *((name, MECHANISMS[name]) for name in mechanisms)]:
        title = name or "bare"
        stage = "builds"
        try:
            spec = [{"name": name, "at": at, **options}] if name else None
            model = build(network, arguments, spec)
            state = model.state_dict()
            if name is None:
                keys = list(state)
            else:
                own = [k for k in state if ".attention." not in f".{k}"]
                assert own == keys, "the backbone's keys changed"
                places = len({k.partition("attention.")[0] for k in state if k not in keys})
                vary_constants(state)
            stage = "train"
            missing = train_step(model, shape)
            assert not missing, f"no gradient reaches {missing[0]}"
            stage = "export"
            export(model, shape, (True, False) if onednn else (False,))
            cells[title] = "ok"
        except Exception as error:  # whatever it is, it is the cell's content
            cells[title] = f"{stage}: {reason(error)}"
            if name is None and stage == "builds":
                break
    return cells, places


def run(family, mechanisms):
    """:func:`check` in a process of its own: a crash there is a cell, too."""
    for options in ((), ("--plain",)):  # oneDNN cannot run some backbones, bare as they are
        command = [sys.executable, __file__, "--mechanisms", ",".join(mechanisms), "--one", family, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode or not lines:
            result = {"cells": {"bare": f"the process ended with status {done.returncode}"}, "places": ""}
            continue
        result = json.loads(lines[-1])
        if options:
            result["note"] = "compared without oneDNN, which cannot run this backbone even bare"
        if not result["cells"]["bare"].startswith("export"):
            break
    return result


def check_presets(names):
    """Train and export named networks; returns 1 if one failed."""
    import paddle

    from paddle_attention import list_networks, ppcls
    from paddle_attention.networks import get_network

    ppcls.register()
    ppcls.init_logger()
    failed = 0
    for name in names or list_networks():
        size = 224 if "GE_theta" in name else 128 if "Inception" in get_network(name).backbone else 64
        try:
            with paddle.utils.unique_name.guard():
                paddle.seed(0)
                model = ppcls.build_network({"Arch": {"name": name, "class_num": 10}})
            missing = train_step(model, [3, size, size])
            assert not missing, f"no gradient reaches {missing[0]}"
            vary_constants(model.state_dict())
            export(model, [3, size, size])
            print(f"{name}: ok", flush=True)
        except Exception as error:  # whatever it is, it is the line's content
            print(f"{name}: {reason(error)}", flush=True)
            failed = 1
    return failed


def document(results, names):
    """The Markdown text: counts, the table, the reasons."""
    from paddle_attention.analysis import markdown_table

    rows, notes = [], []
    for family, result in results.items():
        network, _, _, at = FAMILIES[family]
        cells, bare = [], result["cells"]["bare"]
        for name in names:
            cell = result["cells"].get(name, "not run")
            if cell != "ok":
                if bare != "ok":
                    cell = f"the backbone itself, without attention: {bare}"
                cell = re.sub(
                    r"^.* returns tokens .* and (\w+ needs a feature map).*", r"tokens [N, L, C]: \1", cell
                )
                if cell not in notes:
                    notes.append(cell)
                cell = f"({notes.index(cell) + 1})"
            cells.append(cell)
        if "note" in result:
            if result["note"] not in notes:
                notes.append(result["note"])
            family += f" ({notes.index(result['note']) + 1})"
        rows.append([family, network, f"`{at}`", result["places"], *cells])
    counts = {n: sum(r["cells"].get(n) == "ok" for r in results.values()) for n in names}
    gates = [n for n in GATES if n in names]
    all_gates = sum(all(r["cells"].get(n) == "ok" for n in gates) for r in results.values())
    head = [
        f"{len(results)} families; ok: " + ", ".join(f"{n} {c}" for n, c in counts.items()) + ".",
        f"{' / '.join(gates)} all ok: {all_gates}.",
        "",
        markdown_table(["family", "network", "at", "layers", *names], rows),
        "",
    ]
    return "\n".join([*head, *(f"({i}) {note}  " for i, note in enumerate(notes, 1))])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="default: all that --results lacks")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument(
        "--results", metavar="FILE", help="JSON of what has been measured, to go on from where it was stopped"
    )
    parser.add_argument("--write", metavar="FILE", help="the document to put the table into")
    parser.add_argument(
        "--mechanisms", default=",".join(MECHANISMS), metavar="NAME,NAME", help="default: all"
    )
    parser.add_argument("--sample", action="store_true", help="a few different families")
    parser.add_argument("--presets", nargs="*", metavar="NAME", help="default: all of them")
    parser.add_argument("--one", metavar="FAMILY", help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    set_threads(None if options.one is None else 1)
    if options.presets is not None:
        sys.exit(check_presets(options.presets))
    mechanisms = options.mechanisms.split(",")
    for name in mechanisms:
        if name not in MECHANISMS:
            parser.error(f"unknown mechanism {name!r}; known: {', '.join(MECHANISMS)}")
    if options.one:
        cells, places = check(options.one, mechanisms, onednn=not options.plain)
        print(json.dumps({"cells": cells, "places": places}))
        return
    for family in options.families:
        if family not in FAMILIES:
            parser.error(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    from paddle_attention.files import write_atomically

    results = {}
    if options.results and os.path.exists(options.results):
        with open(options.results, encoding="utf-8") as file:
            results = json.load(file)
    families = options.families or [f for f in (SAMPLE if options.sample else FAMILIES) if f not in results]
    with concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
        for family, result in zip(
            families, pool.map(lambda family: run(family, mechanisms), families), strict=True
        ):
            results[family] = result
            print(family, result["places"], result["cells"], file=sys.stderr, flush=True)
            if options.results:  # after every family: the whole takes an hour
                content = json.dumps(results, indent=1).encode()
                write_atomically(options.results, lambda file, content=content: file.write(content))
    results = {family: results[family] for family in FAMILIES if family in results}
    text = document(results, mechanisms)
    print(text)
    if options.write:
        from paddle_attention.analysis import write_between_markers

        write_between_markers(options.write, {"backbone matrix": text})


if __name__ == "__main__":
    main()
