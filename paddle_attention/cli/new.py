"""``python -m paddle_attention new NAME``: the files of a mechanism and its page, to be filled in."""

from __future__ import annotations

import keyword
import re
from datetime import date
from pathlib import Path

from .. import layers
from ..registry import list_attentions

# What the skeletons import: neither the class nor the reference function may hide it.
_TEMPLATE_NAMES = ("nn", "pa", "Case", "CHANNELS", "fully_connected", "scaled", "shared_tests", "sigmoid")

LAYER = '''"""TODO: what it is, in three words.

TODO: authors, "Title", arXiv id; authors' code: owner/repository.
"""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import GateLayer
from ._checks import hidden_width
from ._init import conv

__all__ = ["{name}"]


@register_attention(
    "{name}",
    paper="TODO",
    arxiv=None,
    year={year},
    domain="channel",
    computed_by="TODO",
    applied_by="scale",
)
class {name}(GateLayer):
    r"""TODO: what it does to a feature map, in one line.

    .. math::
        y = \\sigma(W_2 W_1 \\mathrm{{GAP}}(x))\\, x

    (TODO: equation.)

    Args:
        channels (int): channels of the input.
        reduction (int): the hidden width is ``channels // reduction``.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = hidden_width(channels, reduction)
        self.channels = channels
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.fc1 = conv(channels, hidden)
        self.fc2 = conv(hidden, channels)

    def gate(self, x: Tensor) -> Tensor:
        """The channel weights, ``[N, channels, 1, 1]``, each in [0, 1]."""
        return F.sigmoid(self.fc2(self.fc1(self.avg_pool(x))))  # TODO: the paper's
'''

TESTS = '''"""{name}: reference, cases, mutants."""

from layer_tester import shared_tests

import paddle_attention as pa

from ._case import CHANNELS, Case, scaled
from ._numpy import fully_connected, sigmoid


def {file}(x, p, training=False):
    """TODO: arXiv id, equation; from the paper, not from the layer."""
    z = x.mean((2, 3))
    s = sigmoid(fully_connected(fully_connected(z, p, "fc1"), p, "fc2"))
    return x * s[:, :, None, None]


# TODO: a case for every option.
CASES = [Case("{name}", {file}, {{"reduction": 4}}, applied=scaled, maps=CHANNELS)]

BAD_ARGUMENTS = [(lambda: pa.{name}(8), "channels=8 // reduction=16")]

# What is there, and what a mutant has instead. TODO: at least three.
MUTANTS = [
    ("self.fc2(self.fc1(", "(self.fc2(self.fc1("),
]


class Test{title}(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""
'''

PAGE = """---
file_format: mystnb
kernelspec:
  name: python3
---

# {name}：TODO

```{{code-cell}} python3
:tags: [remove-input]

from book import *

facts("{name}")
```

## 它解决什么问题

TODO

## 想法

TODO

## 数据流

下图由代码从这个层的一次真实运行画出：方框是运算，箭头旁是形状（批 × 通道 × 高 × 宽）。

```{{code-cell}} python3
:tags: [remove-input]

flow("{name}")
```

## 公式，一步一步写出来

$$y = \\sigma(W_2 W_1 \\mathrm{{GAP}}(x)) \\odot x$$

TODO：公式的编号。

```{{code-cell}} python3
import paddle
import paddle.nn.functional as F

from paddle_attention import {name}

paddle.seed(0)
x = paddle.randn([2, 64, 14, 14])

layer = {name}(64)
layer.eval()
z = x.mean(axis=[2, 3], keepdim=True)
y = F.sigmoid(layer.fc2(layer.fc1(z))) * x  # TODO

error = float((y - layer(x)).abs().max())
print(f"最大误差 {{error:.1e}}")
assert error < 1e-4
```

## 形状

```{{code-cell}} python3
:tags: [remove-input]

shapes("{name}")
```

## 写进 YAML

```yaml
Arch:
  name: AttentionNet
  class_num: 1000
  backbone: {{name: ResNet50}}
  attention: {{name: {name}, at: residual}}
```

`at` 的各种取值见[插入的位置](../insertion.md)。

## 代价

```{{code-cell}} python3
:tags: [remove-input]

cost("{name}")
```

## 它看哪里

```{{code-cell}} python3
:tags: [remove-input]

picture("{file}")
```

## 容易弄错的地方

TODO

## 接着读

TODO
"""

NEXT = """{layer}
{tests}
{page}
Fill in what says TODO, then:
  python -m pytest tests/mechanisms/{file}.py tests/test_layers.py tests/test_book.py
  python tests/mutations.py {file}
It is {name} in YAML and in Python already: attention: {{name: {name}}}"""


def file_name(name: str) -> str:
    """``'CoordAttention'`` to ``'coord_attention'``, the file of a mechanism."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def write_skeletons(name: str, root: Path | None = None) -> str:
    """Write the file of a mechanism, the file of its tests, and its page.

    Args:
        name (str): its name and its class, such as ``'MyGate'``.
        root (Path, optional): a checkout of this project. Default: the one that this package is in.

    Returns:
        str: what to do next.

    Raises:
        ValueError: for a name that is none or is taken, or without a checkout.
    """
    root = Path(__file__).resolve().parents[2] if root is None else Path(root)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]+", name):
        raise ValueError(
            f"new: a mechanism has a name of letters and digits, such as MyGate, but got {name!r}"
        )
    if (
        keyword.iskeyword(name)
        or name.lower().startswith("test")
        or {name, file_name(name)} & set(_TEMPLATE_NAMES)
        or len(name) > 60
    ):
        raise ValueError(
            f"new: {name[:60]!r} cannot be the name of a class and of a file here; choose another name"
        )
    if name in layers.__all__:
        raise ValueError(f"new: {name!r} is taken by paddle_attention.{name}; choose another name")
    taken = {entry.name.lower(): entry for entry in list_attentions()}
    if name.lower() in taken:
        raise ValueError(
            f"new: {name!r} is taken by {taken[name.lower()].cls.__module__}; choose another name"
        )
    if not (root / "tests" / "mechanisms").is_dir():
        raise ValueError(f"new: {root} is no checkout of the project: it has no tests/mechanisms")
    file, title = file_name(name), name[0].upper() + name[1:]
    texts = {
        root / "paddle_attention/layers" / f"{file}.py": LAYER,
        root / "tests/mechanisms" / f"{file}.py": TESTS,
        root / "docs/mechanisms" / f"{file}.md": PAGE,
    }
    for path in texts:
        if path.exists():
            raise ValueError(f"new: {path} exists; choose another name")
    for path, text in texts.items():
        text = text.format(name=name, file=file, title=title, year=date.today().year)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    layer, tests, page = texts
    return NEXT.format(layer=layer, tests=tests, page=page, file=file, name=name)
