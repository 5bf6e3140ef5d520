"""What a run asks of its process: Accelerate, settings that make a CPU faster, and to be told of signals."""

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env


def quicken_cpu() -> None:
    """Two settings of the process that make a step on the CPU faster.

    Numbers below 1e-38, of which softmax makes many, count as zero: each would cost a hundred cycles. And where the
    allocator is glibc's, it keeps freed memory instead of fetching every large tensor anew from the kernel.
    """
    torch.set_flush_denormal(True)
    with suppress(OSError, AttributeError, TypeError):  # another operating system or another allocator
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no tensor gets pages of its own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: freed memory stays


def open_accelerator(config: Any) -> Accelerator:
    """Accelerate as a run's settings ask for it, and the settings of the process that go with it."""
    # Said also where there is nothing else, or several CPU processes would not find one another.
    cpu = not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
    precision = config.mixed_precision
    if precision == "auto":
        precision = "bf16" if not cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=precision,
        log_with=None if config.report_to == "none" else config.report_to,
        project_dir=str(Path(config.output_dir) / "logs"),
    )
    if accelerator.device.type == "cpu":
        quicken_cpu()
    if config.threads:
        torch.set_num_threads(config.threads)
    return accelerator


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on the first SIGINT or SIGTERM; a second one acts at once. In a thread it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def once(number: int, frame: Any) -> None:
        stop()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, once)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
