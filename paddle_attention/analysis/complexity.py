"""Parameters and multiply-adds of a network, counted the way papers count them."""

import collections
import contextlib
import math
from dataclasses import dataclass, field

import paddle
from paddle import _C_ops

from ..layers import AttentionLayer
from ..trial import trial


def _macs(work):
    """He et al., arXiv 1512.03385: multiply-adds of convolutions, fully connected layers, matrix products."""
    return work["conv"] + work["matmul"]


def _adds(work):
    """Also the residual additions."""
    return _macs(work) + work["add"]


def _senet(work):
    """Hu et al., arXiv 1709.01507, Tables 10 to 16: also the squeeze (an addition per number) and the scaling."""
    return _macs(work) + (work["global_pool"] + work["multiply"] if work["multiply"] else 0)


def _axpy(work):
    """The same authors' Table 2: scaling and residual addition as one multiply-add, also in the plain networks."""
    squeeze = work["global_pool"] if work["multiply"] else 0
    return _macs(work) + squeeze + max(work["multiply"], work["add"])


def _thop(work):
    """The tool thop: also normalisation (2 per number)."""
    return _macs(work) + 2 * work["norm"]


def _ptflops(work):
    """The tool ptflops: also normalisation (2 per number), activations and pooling (1 per number)."""
    return _macs(work) + 2 * work["norm"] + work["activation"] + work["pool"] + work["global_pool"]


#: Ways to add up the work of a network, by name.
COUNTINGS = {
    "macs": _macs,
    "adds": _adds,
    "senet": _senet,
    "axpy": _axpy,
    "thop": _thop,
    "ptflops": _ptflops,
}


@dataclass(frozen=True)
class Complexity:
    """What :func:`count_complexity` found.

    Attributes:
        params: number of trainable numbers.
        statistics: number of running means and variances.
        work: operations by kind: ``conv`` and ``matmul`` in multiply-adds; ``norm``,
            ``activation``, ``pool``, ``global_pool``, ``multiply`` (of a map by a gate or
            another map) and ``add`` (of maps, outside attention) in numbers written, or read
            for pooling. ``constant_conv``, sums written as convolutions, is in no counting.
    """

    params: int
    statistics: int = 0
    work: dict = field(default_factory=dict)

    def flops(self, counting="macs"):
        """The sum under one of :data:`COUNTINGS`.

        Raises:
            ValueError: for an unknown counting.
        """
        if counting not in COUNTINGS:
            raise ValueError(f"counting must be one of {list(COUNTINGS)}, but got {counting!r}")
        return COUNTINGS[counting](collections.Counter(self.work))


def _convolution(x, weight, *_, **__):
    # Each output number takes as many products as one filter has weights.
    return lambda y: y.size * int(weight.size) // int(weight.shape[0])


def _transposed_convolution(x, weight, *_, **__):
    return lambda y: x.size * int(weight.size) // int(weight.shape[0])


def _linear(x, weight, *_, **__):
    return lambda y: y.size * int(weight.shape[0])


def _product(x, y, transpose_x=False, transpose_y=False, *_, **__):
    shared = x.shape[-2] if transpose_x and len(x.shape) > 1 else x.shape[-1]
    return lambda out: out.size * int(shared)


def _einsum(operands, equation, *_, **__):
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    sizes = {
        label: size
        for term, x in zip(terms, operands, strict=True)
        for label, size in zip(term, x.shape, strict=True)
    }
    return lambda y: math.prod(sizes.values()) * (len(terms) - 1)


def _read(x, *_, **__):
    return lambda y: x.size


def _written(*_, **__):
    return lambda y: y.size


_CONVOLUTIONS = ("conv2d", "depthwise_conv2d", "conv3d")
_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "prelu", "elu")
_NORMALISATIONS = (
    "batch_norm",
    "batch_norm_",
    "sync_batch_norm_",
    "layer_norm",
    "group_norm",
    "instance_norm",
)
_OPERATORS = {
    **dict.fromkeys(_CONVOLUTIONS, ("conv", _convolution)),
    "conv2d_transpose": ("conv", _transposed_convolution),
    "depthwise_conv2d_transpose": ("conv", _transposed_convolution),
    "linear": ("matmul", _linear),
    "matmul": ("matmul", _product),
    "bmm": ("matmul", _product),
    "einsum": ("matmul", _einsum),
    **dict.fromkeys(_NORMALISATIONS, ("norm", _written)),
    **dict.fromkeys(_ACTIVATIONS, ("activation", _written)),
    "pool2d": ("pool", _read),
    "max_pool2d_with_index": ("pool", _read),
    "multiply": ("multiply", _written),
    "add": ("add", _written),
}
_METHODS = {
    "__mul__": ("multiply", _written),
    "__rmul__": ("multiply", _written),
    "__add__": ("add", _written),
    "__radd__": ("add", _written),
    "__matmul__": ("matmul", _product),
}


def _are_maps(x, y):
    return all(isinstance(value, paddle.Tensor) and len(value.shape) >= 3 for value in (x, y))


# When a kind counts: products with constants and additions of biases are no work of their own.
_COUNTED_IF = {
    "multiply": _are_maps,
    "add": lambda x, y: _are_maps(x, y) and x.shape == y.shape,
}


def _first(value):
    return value[0] if isinstance(value, (list, tuple)) else value


@contextlib.contextmanager
def _counting(work, inside):
    """While in it, every operator of the table adds to ``work``; ``inside`` is not empty in attention layers."""

    def counted(function, kind, cost):
        def call(*arguments, **options):
            output = function(*arguments, **options)
            result = _first(output)
            here = kind
            if kind == "pool" and list(result.shape[2:]) == [1] * len(result.shape[2:]):
                here = "global_pool"
            if kind == "conv" and not isinstance(arguments[1], paddle.base.framework.EagerParamBase):
                here = "constant_conv"  # a sum written as a convolution, no weights of the network
            if kind == "add" and inside:
                return output
            if kind not in _COUNTED_IF or _COUNTED_IF[kind](*[*arguments, *options.values()][:2]):
                work[here] = work.get(here, 0) + int(cost(*arguments, **options)(result))
            return output

        return call

    tensor, saved = paddle.Tensor, []
    operators = [(_C_ops, name, *entry) for name, entry in _OPERATORS.items() if hasattr(_C_ops, name)]
    operators += [(tensor, name, *entry) for name, entry in _METHODS.items()]
    try:
        for owner, name, kind, cost in operators:
            saved.append((owner, name, getattr(owner, name)))
            setattr(owner, name, counted(getattr(owner, name), kind, cost))
        yield
    finally:
        for owner, name, function in reversed(saved):
            setattr(owner, name, function)


def count_complexity(network, input_shape=(3, 224, 224)):
    """Run ``network`` once on one image and count.

    Args:
        network (paddle.nn.Layer): any network that takes one image batch. Operators other than
            those of the kinds above are not work: there is no counting in which they are.
        input_shape (list of int): ``[C, H, W]``.

    Returns:
        :class:`Complexity`.
    """
    work, inside = {}, []
    with trial(network) as handles:
        for layer in network.sublayers(include_self=True):
            if isinstance(layer, AttentionLayer):
                handles.append(layer.register_forward_pre_hook(lambda *_: inside.append(1)))
                handles.append(layer.register_forward_post_hook(lambda *_: inside.pop() and None))
        with paddle.no_grad(), _counting(work, inside):
            network(paddle.zeros([1, *input_shape]))
    params = sum(int(p.size) for p in network.parameters() if p.trainable)
    # PaddleClas' networks keep their statistics as parameters, others as buffers.
    statistics = sum(
        int(v.size) for k, v in network.state_dict().items() if k.endswith(("._mean", "._variance"))
    )
    return Complexity(params, statistics, work)
