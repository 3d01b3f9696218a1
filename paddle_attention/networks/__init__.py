"""The papers' networks: presets as data, the backbones PaddleClas lacks, and changes of a built backbone."""

from .bn_inception import BN_Inception
from .cifar_resnet import CifarResNet20, CifarResNet32, CifarResNet56, CifarResNet110
from .inception_resnet_v2 import Inception_ResNet_v2
from .presets import NetworkPreset, get_network, list_networks
from .resnext154 import ResNeXt154_64x4d
from .strides import set_output_stride, stride_in_1x1

#: Backbones of this library's own, under the names used in ``Arch.backbone.name``.
BACKBONES = {
    f.__name__: f
    for f in (
        BN_Inception,
        CifarResNet20,
        CifarResNet32,
        CifarResNet56,
        CifarResNet110,
        Inception_ResNet_v2,
        ResNeXt154_64x4d,
    )
}

__all__ = [
    "BACKBONES",
    "NetworkPreset",
    "get_network",
    "list_networks",
    "set_output_stride",
    "stride_in_1x1",
]
