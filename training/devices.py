"""The one place that says where tensors are: models are moved there, and batches, masks and numbers are made there.

Draws and statistics stay on the CPU whatever the device: a seed gives the same noise everywhere, and float64, which
some devices lack, is at hand. No GPU was there to run this on; a test runs whole updates on a pretended one that
refuses what a real one refuses.
"""

import torch

from training.config import ConfigError, Device
from training.launcher import launched_here, wants_cpu

_chosen: torch.device | None = None


def use_device(name: Device) -> torch.device:
    """Set the device of this process and return it; auto is a GPU where there is one, else the CPU.

    Of several processes on one machine each takes the GPU of its number.

    Raises:
        ConfigError: this machine, or this build of torch, has no such device.
    """
    global _chosen
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device: mps is not there")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda is not there")
    if name == "auto" and wants_cpu():
        name = "cpu"
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        _chosen = torch.device("cuda", launched_here()[0] % torch.cuda.device_count())
        torch.cuda.set_device(_chosen)
    else:
        _chosen = torch.device("mps" if name == "mps" else "cpu")
    return _chosen


def device_of() -> torch.device:
    """Return the device that use_device set; before that, the one auto names."""
    return _chosen if _chosen is not None else use_device("auto")
