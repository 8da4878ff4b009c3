"""Sets precision, TF32 and the kernels of attention for a teacher's forward pass alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


@contextlib.contextmanager
def arithmetic(compute_dtype: str, *, device: str, attention: str | None = None) -> Iterator[None]:
    """Compute in this way, and as before afterwards. The settings are the process's: one thread may use them at a time.

    Args:
        compute_dtype: of a spec; what stands behind a comma in it is set elsewhere.
        device: its type, ``cpu`` or ``cuda``.
        attention: one of `KERNELS`, or None for torch's choice. Where it cannot do an operation (flash attention has no
            masks), the plain one does.
    """
    dtype, _, _ = compute_dtype.partition(",")
    with contextlib.ExitStack() as stack:
        if dtype in AUTOCAST:
            stack.enter_context(torch.autocast(device, dtype=AUTOCAST[dtype]))
        if attention:
            stack.enter_context(sdpa_kernel(list({KERNELS[attention], SDPBackend.MATH})))
        if device == "cuda":
            stack.enter_context(_tf32(allowed=dtype == "tf32"))
        yield


@contextlib.contextmanager
def _tf32(*, allowed: bool) -> Iterator[None]:
    # torch allows it for convolutions unless told otherwise, so that float32 would be something else on a card.
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
