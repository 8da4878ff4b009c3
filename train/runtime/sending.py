"""Sends small arrays to a device without a wait for what the device is doing."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor


def on_device(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Return an array as a tensor on a device.

    A copy to a card waits for the card, unless it comes from pinned memory, which torch keeps until the copy is done.
    """
    host = torch.from_numpy(values)
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)
