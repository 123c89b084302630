"""The one table of cards: whole names, as people, drivers, torch and Ray write them."""

from __future__ import annotations

import pytest
from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager

from raylora.gpus import MODELS, card_name, find_card, memory_gib, tensor_tflops

#: Names as NVIDIA's driver gives them, and what such a card has at least.
DRIVER_NAMES = {
    "NVIDIA GeForce RTX 3080": 10,
    "NVIDIA GeForce RTX 3090": 24,
    "NVIDIA GeForce RTX 3090 Ti": 24,
    "NVIDIA GeForce RTX 4080": 16,
    "NVIDIA GeForce RTX 4090": 24,
    "NVIDIA GeForce RTX 4090 D": 24,
    "NVIDIA GeForce RTX 5090": 32,
    "NVIDIA RTX A4000": 16,
    "NVIDIA RTX A6000": 48,
    "Tesla T4": 16,
    "NVIDIA A10": 24,
    "NVIDIA A10G": 24,
    "NVIDIA A40": 48,
    "NVIDIA L4": 24,
    "NVIDIA L40": 48,
    "NVIDIA L40S": 48,
    "NVIDIA H100 PCIe": 80,
    "NVIDIA H100 80GB HBM3": 80,
    "NVIDIA H200": 141,
}
#: And those of which Ray's name does not tell which it is.
AMBIGUOUS = {
    "NVIDIA A100-SXM4-40GB": 40,
    "NVIDIA A100-PCIE-40GB": 40,
    "NVIDIA A100-SXM4-80GB": 80,
    "NVIDIA A100 80GB PCIe": 80,
    "Tesla V100-SXM2-16GB": 16,
    "Tesla V100-SXM2-32GB": 32,
    "Quadro RTX 6000": 24,
    "NVIDIA RTX 6000 Ada Generation": 48,
}


def accelerator(driver_name: str) -> str:
    return str(NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type(driver_name))


@pytest.mark.parametrize(("name", "gib"), [*DRIVER_NAMES.items(), *AMBIGUOUS.items()])
def test_a_drivers_name_tells_the_memory(name: str, gib: int) -> None:
    assert memory_gib(name) == gib
    assert tensor_tflops(name)
    assert find_card(name).accelerator == accelerator(name)


@pytest.mark.parametrize("name", DRIVER_NAMES)
def test_so_does_rays(name: str) -> None:
    assert memory_gib(accelerator(name)) == DRIVER_NAMES[name]


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_where_rays_name_stands_for_several_boards_the_smallest_counts(name: str) -> None:
    boards = [gib for other, gib in AMBIGUOUS.items() if accelerator(other) == accelerator(name)]
    assert memory_gib(accelerator(name)) == min(boards)
    assert find_card(accelerator(name)).memory_gib == max(boards)  # an MMIO window must hold any of them


def test_rays_labels_tell_a_size() -> None:
    assert (memory_gib("A100-40G"), memory_gib("A100-80G"), memory_gib("A100")) == (40, 80, 40)


@pytest.mark.parametrize("name", ["GPU", "", "A4", "L40SX", "RTX 3090 Super", "GeForce-RTX-4090-Laptop-GPU", "A40 G2"])
def test_a_part_of_a_name_is_none(name: str) -> None:
    assert memory_gib(name) is None
    assert tensor_tflops(name) is None
    with pytest.raises(ValueError, match="known are"):
        find_card(name)


def test_a_name_of_several_boards_gives_all_their_ids() -> None:
    found = find_card("A100")
    assert (found.name, found.accelerator) == ("A100", "A100")
    assert found.devices == {0x20F1, 0x20B0, 0x20B2, 0x20B5}
    assert find_card("A100 80GB").devices == {0x20B2, 0x20B5}
    assert card_name(0x10DE, 0x20F1) == "A100 40GB"


def test_no_two_models_share_a_board() -> None:
    devices = [device for model in MODELS for device in model.devices]
    assert len(devices) == len(set(devices))
    for model in MODELS:
        assert find_card(model.name) == model
