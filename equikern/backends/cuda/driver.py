"""Loads kernels and starts them on PyTorch's current stream, through the driver's own interface."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from equikern.backends.cuda.nvrtc import cubin
from equikern.errors import BackendError


@cache
def _cuda() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _check(status: int, what: str) -> None:
    if status:
        text = ctypes.c_char_p()
        _cuda().cuGetErrorString(status, ctypes.byref(text))
        said = text.value.decode() if text.value else f"status {status}"
        raise BackendError(f"the CUDA driver could not {what}: {said}.")


def _enter_context(device: int) -> None:
    """Make the device's context current on a thread that has none yet, as autograd's may."""
    context = ctypes.c_void_p()
    _check(_cuda().cuCtxGetCurrent(ctypes.byref(context)), "name its context")
    if not context:
        _check(_cuda().cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "give its context")
        _check(_cuda().cuCtxSetCurrent(context), "enter its context")


@cache
def _function(source: str, name: str, device: int) -> Any:
    """A kernel on a device, loaded once a process. Its context is current."""
    major, minor = torch.cuda.get_device_capability(device)
    image, module, function = cubin(source, 10 * major + minor), ctypes.c_void_p(), ctypes.c_void_p()
    _check(_cuda().cuModuleLoadData(ctypes.byref(module), image), "load a kernel")
    _check(_cuda().cuModuleGetFunction(ctypes.byref(function), module, name.encode()), f"find {name}")
    return function


def start(source: str, name: str, grid: tuple[int, int], threads: int, words: Sequence[int]) -> None:
    """Start a kernel of a source; its one argument is a struct of 64-bit words. Nothing waits for it."""
    device = torch.cuda.current_device()
    _enter_context(device)
    function = _function(source, name, device)
    argument = (ctypes.c_int64 * len(words))(*words)
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
    stream = ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)
    sizes = [ctypes.c_uint(n) for n in (*grid, 1, threads, 1, 1, 0)]
    _check(_cuda().cuLaunchKernel(function, *sizes, stream, pointers, None), f"start {name}")
