"""Precision: which number format is fast on a device, and how slow bfloat16 is where it is emulated."""

import platform
import time
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from rich.console import Console

from console.progress import is_first_process

Precision = Literal["float32", "bfloat16", "float16"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

# Large enough that arithmetic dominates the time, small enough that an emulated product takes a tenth of a second.
_SIZE = 384


def device_named(name: str = "auto") -> torch.device:
    """The device with this name; `auto` is the first GPU if there is one, else the CPU."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def resolve_dtype(dtype: Dtype, device: torch.device) -> Precision:
    """The dtype, with `auto` replaced: bfloat16 if the device has hardware for it, else float32."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if has_bfloat16(device.type) else "float32"


@cache
def has_bfloat16(device_type: str) -> bool:
    """Whether the device has hardware for matrix products in bfloat16.

    Args:
        device_type: `cpu`, `cuda`, ...
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type != "cpu":
        return False
    # oneDNN's own check also accepts AVX-512 CPUs that only emulate bfloat16.
    native = torch.cpu._is_avx512_bf16_supported() or platform.machine() in ("aarch64", "arm64")
    return bool(native and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def bfloat16_slowdown(device: torch.device) -> float:
    """Measure how many times as long a matrix product takes in bfloat16 as in float32 on a device."""
    # A separate generator: the random numbers of a run must not depend on this measurement.
    left, right = torch.randn(2, _SIZE, _SIZE, generator=torch.Generator().manual_seed(0)).to(device)
    rounded = left.bfloat16(), right.bfloat16()
    return _shortest_time(lambda: rounded[0] @ rounded[1], device) / _shortest_time(lambda: left @ right, device)


def announce_dtype(option: str, dtype: str, chosen: str, cure: str, device: torch.device) -> None:
    """Print which dtype `auto` stands for, or that an explicit bfloat16 is emulated here and how slow it is.

    Args:
        option: The yaml path of the option.
        dtype: The value of the option.
        chosen: The dtype of the computation.
        cure: What to set instead if bfloat16 is emulated.
        device: The device of the computation.
    """
    if not is_first_process():
        return
    place = {"cpu": "processor", "cuda": "GPU"}.get(device.type, device.type)
    if dtype == "auto":
        print_once(f"{option}: auto is {chosen} on this {place}")
    elif dtype.startswith(("bf16", "bfloat16")) and device.type in ("cpu", "cuda") and not has_bfloat16(device.type):
        _warn_of_emulation(option, dtype, cure, device, place)


@cache
def _warn_of_emulation(option: str, dtype: str, cure: str, device: torch.device, place: str) -> None:
    print_once(
        f"{option}: {dtype} is emulated: this {place} has no bfloat16, and a matrix product takes "
        f"{bfloat16_slowdown(device):.1f} times as long as in float32. Faster here: {cure}",
        style="yellow",
    )


@cache
def print_once(message: str, style: str | None = None) -> None:
    """Print a line on stderr, unless it was printed before."""
    Console(stderr=True).print(message, style=style, soft_wrap=True, highlight=False, markup=False)


def _shortest_time(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """The shortest time of several calls after a warm-up call, because other work on the machine only adds time."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    work()
    wait()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
