"""The processor that networks run on: which one, in which precision, and what makes it faster."""

import ctypes
import platform
import sys

import torch
from torch import nn

from .profile import Profile

EAGER_STEPS = 3  # before a CUDA graph is captured: optimizers and cuDNN allocate and choose in the first ones


def pick_device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(profile: Profile, device: torch.device) -> torch.dtype:
    """bfloat16 or float32. `auto` is bf16 on GPUs and on CPUs that multiply it in hardware; elsewhere it is slower."""
    if profile.precision != "auto":
        return torch.bfloat16 if profile.precision == "bf16" else torch.float32
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def keep_freed_memory() -> None:
    """Let glibc keep what is freed: else every large tensor is new pages from the kernel, which takes time on a CPU."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        no_mmap, trim_threshold, never = -4, -1, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(no_mmap, 0), libc.mallopt(trim_threshold, never)


def frozen(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """On the device, with the weights of its convolutions in the dtype that autocast would convert them to every time."""
    network.to(device, memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype)
    return network
