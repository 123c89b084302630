"""The sizes of pictures that a flow-matching model takes."""

from __future__ import annotations

import dataclasses

from raylora.config.schema import TrainConfig
from raylora.families.flow.networks.network import Network
from raylora.families.images.sizes import Sizes, sizes_for


def sizes(network: Network, config: TrainConfig) -> Sizes:
    """The sizes that pictures are brought to for a model.

    Raises:
        UserError: `config.resolution` is too small, or too large, for the model.
    """
    resolution = config.resolution or network.side
    found = sizes_for(resolution, network.granule, network.side)
    most = network.longest
    if most is None:
        return found
    return dataclasses.replace(found, buckets=[bucket for bucket in found.buckets if max(bucket) <= most])
