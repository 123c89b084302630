"""All keys of one training run that hold one value: what a trial of a sweep is made of."""

from __future__ import annotations

from raylora.config.keys.chats import ChatKeys
from raylora.config.keys.data import DataKeys
from raylora.config.keys.device import DeviceKeys
from raylora.config.keys.image_data import ImageDataKeys
from raylora.config.keys.images import ImageKeys
from raylora.config.keys.lora import LoraKeys
from raylora.config.keys.optimizer import OptimizerKeys
from raylora.config.keys.reports import ReportKeys
from raylora.config.keys.samples import SampleKeys


# Pydantic lists the keys of the last base first: read the bases from the end for the order of `raylora config`.
class TrialKeys(
    ChatKeys, ImageKeys, ImageDataKeys, SampleKeys, DeviceKeys, ReportKeys, OptimizerKeys, LoraKeys, DataKeys
):
    """The keys of a training run without the sweep around it. Apart, so that `SweepConfig` can know them."""
