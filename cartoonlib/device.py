"""The processor that networks run on: which one, in which precision, and what makes it faster."""

import ctypes
import platform
import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

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
        libc.mallopt(no_mmap, 0)
        libc.mallopt(trim_threshold, never)


def frozen(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network on the device, the weights of its convolutions in the dtype that autocast would convert them to."""
    network.to(device, memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype)
    return network


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a number over the processes that share a batch; alone, the number itself."""
    if not torch.distributed.is_initialized():
        return value
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


class Graphed:
    """A function of tensors that gives a dict of tensors, recorded once as a CUDA graph and replayed from then on.

    Inputs have the same shapes at every call, and what is returned is overwritten by the next one. Where a graph cannot
    be recorded, `progress` is told why, and the function is called as it is. It is given with each call, for kept here
    a method of whoever owns this would hold both, and their memory, beyond their use.
    """

    def __init__(self, progress: Callable[[str], None]):
        self._progress = progress
        self._calls, self._graph, self._failed = 0, None, False
        self._inputs, self._outputs, self._side = (), {}, torch.cuda.Stream()

    @property
    def recorded(self) -> bool:
        """Whether calls replay a graph by now."""
        return self._graph is not None

    def __call__(self, function: Callable[..., dict[str, Tensor]], *inputs: Tensor) -> dict[str, Tensor]:
        self._calls += 1
        if self._calls <= EAGER_STEPS:
            return self._before_capture(function, *inputs)
        if not self._failed and self._graph is None:
            self._capture(function, *inputs)
        if self._failed:
            return function(*inputs)
        for static, new in zip(self._inputs, inputs, strict=True):
            static.copy_(new)
        self._graph.replay()
        return self._outputs

    def _before_capture(self, function: Callable, *inputs: Tensor) -> dict[str, Tensor]:
        """A call on a stream of its own, which torch asks for before a capture."""
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*capturable")  # it will be captured soon
            values = function(*inputs)
        torch.cuda.current_stream().wait_stream(self._side)
        return values

    def _capture(self, function: Callable, *inputs: Tensor) -> None:
        """Record the function; nothing runs until it is replayed."""
        self._inputs = tuple(tensor.clone(memory_format=torch.preserve_format) for tensor in inputs)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph):
                self._outputs = function(*self._inputs)
        except RuntimeError as error:
            torch.cuda.set_stream(stream)  # a capture that fails leaves its own
            self._failed = True
            self._progress(f"no CUDA graph ({str(error).splitlines()[0]}): steps run one operation at a time")
        else:
            self._graph = graph
