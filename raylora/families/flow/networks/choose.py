"""The network of a model's architecture."""

from __future__ import annotations

from raylora.families.flow.base_files import FlowFiles
from raylora.families.flow.networks.flux import Flux
from raylora.families.flow.networks.flux2 import Flux2
from raylora.families.flow.networks.network import Network
from raylora.families.flow.networks.qwen_image import QwenImage
from raylora.families.flow.networks.sd3 import StableDiffusion3
from raylora.families.flow.networks.z_image import ZImage

_NETWORKS: dict[str, type[Network]] = {
    "flux": Flux,
    "flux2": Flux2,
    "qwen_image": QwenImage,
    "sd3": StableDiffusion3,
    "z_image": ZImage,
}


def network_of(files: FlowFiles) -> Network:
    """What differs between a model's architecture and others."""
    return _NETWORKS[files.architecture.name](files)
