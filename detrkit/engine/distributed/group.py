"""The process group of a run: devices, and values that travel between processes.

    with together(device="cuda") as device:
        state = shared(lambda: read(path))  # the main process reads, all have it

Values travel by gloo, beside NCCL in a group of its own, so that sending them does not wait for a
GPU. In a single process every function returns at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from detrkit.engine.distributed.meeting import TIMEOUT, Meeting, meet, present_meeting
from detrkit.engine.distributed.place import Place
from detrkit.engine.runtime import choose_device
from detrkit.errors import UsageError

T = TypeVar("T")

_device: torch.device | None = None
#: The process group, and the second one for values.
_control: tuple[Any, Any] | None = None


def is_distributed() -> bool:
    """Whether this is one of several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """The number of this process; 0 when there is only one."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if is_distributed() else 1


def is_main() -> bool:
    """Whether this is the process that reads and writes the run's folder and prints."""
    return rank() == 0


@contextmanager
def together(
    device: str | torch.device | None = None, devices: Sequence[int] | None = None
) -> Iterator[torch.device]:
    """Joins the other processes that the environment tells of, and leaves them at the end.

    Where a process group exists already (an outer `together`, or the user's own), it is used.

    Args:
        device: kind of device, or the one device of a single process; None: the best there is.
        devices: GPUs of the processes on this machine, in the order of their local ranks.

    Yields:
        The device of this process.

    Raises:
        UsageError: more processes than devices; there is no such device.
        OtherProcessFailed: another process failed first, and says why.
    """
    global _device, _control
    if _device is not None or (dist.is_available() and dist.is_initialized()):
        yield own_device(device)
        return
    with meet() as place:
        _device = device_of(place, device, devices)
        meeting = present_meeting()
        try:
            if meeting is not None:
                _open_group(meeting, _device)
            yield _device
            if meeting is not None:
                dist.destroy_process_group()
        except BaseException:
            if dist.is_initialized() and _device.type != "cuda":  # NCCL would wait for the others
                with suppress(Exception):
                    dist.destroy_process_group()
            raise
        finally:
            _device = _control = None


def own_device(wanted: str | torch.device | None = None) -> torch.device:
    """The device of this process in `together`; outside of it the one called `wanted`."""
    return _device or choose_device(wanted)


def device_of(
    place: Place, device: str | torch.device | None, devices: Sequence[int] | None
) -> torch.device:
    """The device of one of the processes on this machine.

    Raises:
        UsageError: there are not enough, or there is no such device.
    """
    if devices is not None:
        if len(devices) < place.local_world_size:
            raise UsageError(
                f"{place.local_world_size} processes on this machine, but --devices names "
                f"{len(devices)}"
            )
        return choose_device(f"cuda:{devices[place.local_rank]}")
    if place.world_size == 1:
        return choose_device(device)
    # Not `choose_device(device)` for "cuda": trying it would take memory of the first GPU each.
    wanted = torch.device(device) if device in ("cuda", "cpu") else choose_device(device)
    if wanted.type == "cpu":
        return wanted
    if wanted.type != "cuda":
        raise UsageError(
            f"several processes cannot share {wanted}", hint="train in one, or with --device cpu"
        )
    if wanted.index is not None:
        raise UsageError(
            f"--device {wanted} is one device, for {place.world_size} processes",
            hint="name all: --devices 0,1",
        )
    count = torch.cuda.device_count()
    if count == 1 and "SLURM_PROCID" in os.environ:
        return choose_device("cuda:0")  # Slurm shows each task its own
    if place.local_rank >= count:
        raise UsageError(
            f"{place.local_world_size} processes on this machine, but {count} GPU"
            + ("s" if count != 1 else ""),
            hint=f"--nproc {count}, or --device cpu" if count else "--device cpu",
        )
    return choose_device(f"cuda:{place.local_rank}")


def _open_group(meeting: Meeting, device: torch.device) -> None:
    """Makes the process group: NCCL on GPUs where there is NCCL, else gloo."""
    nccl = device.type == "cuda" and sys.platform == "linux" and dist.is_nccl_available()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _greetings_on_stderr():
        dist.init_process_group(
            "nccl" if nccl else "gloo",
            store=dist.PrefixStore("group", meeting.store),
            rank=meeting.place.rank,
            world_size=meeting.place.world_size,
            timeout=TIMEOUT,
            device_id=device if nccl else None,
        )


@contextmanager
def _greetings_on_stderr() -> Iterator[None]:
    """Gloo of some versions greets on stdout, which belongs to results."""
    try:
        sys.stdout.flush()
        stdout = os.dup(1)
    except (OSError, AttributeError):  # closed
        yield
        return
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


# -- exchange ---------------------------------------------------------------------------------


def control() -> Any:
    """The group for values and wishes, on the CPU; all processes must ask for it together."""
    global _control
    if dist.get_backend() == "gloo":
        return dist.group.WORLD
    if _control is None or _control[0] is not dist.group.WORLD:
        with _greetings_on_stderr():
            _control = (dist.group.WORLD, dist.new_group(backend="gloo", timeout=TIMEOUT))
    return _control[1]


def shared(compute: Callable[[], T]) -> T:
    """What `compute` returns in the main process, in all of them; others do not call it."""
    if not is_distributed():
        return compute()
    box: list[Any] = [compute() if is_main() else None]
    dist.broadcast_object_list(box, src=0, group=control(), device=torch.device("cpu"))
    value: T = box[0]
    return value


def gathered(value: T) -> list[T] | None:
    """Everyone's value, by rank, in the main process; None in the others."""
    if not is_distributed():
        return [value]
    values: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, values, dst=0, group=control())
    return values


def mean(values: Tensor) -> Tensor:
    """The average over all processes, in place. Every process must call it."""
    if is_distributed():
        dist.all_reduce(values)
        values /= world_size()
    return values


def in_any(flag: Tensor) -> Tensor:
    """Whether a flag () is raised in any process; on its device, where the host does not wait.

    Every process must call it.
    """
    if not is_distributed():
        return flag
    raised = flag.float()
    dist.all_reduce(raised, op=dist.ReduceOp.MAX)
    return raised > 0


def barrier() -> None:
    """Waits for all processes."""
    if is_distributed():
        dist.barrier(group=control())


@torch.no_grad()
def copy_from_main(tensors: Iterable[Tensor]) -> None:
    """Overwrites tensors with those of the main process, few transfers for many."""
    if not is_distributed():
        return
    by_type: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.dtype == torch.bool:  # gloo does not send it
            tensor = tensor.view(torch.uint8)
        by_type.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for group in by_type.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        dist.broadcast(flat, src=0)
        parts = flat.split([tensor.numel() for tensor in group])
        for tensor, part in zip(group, parts, strict=True):
            tensor.copy_(part.view_as(tensor))
