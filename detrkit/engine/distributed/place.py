"""Which of several processes this is, from the environment that started it. Imports no torch.

`torchrun` and detrkit's own launcher say it in RANK, WORLD_SIZE, LOCAL_RANK and
LOCAL_WORLD_SIZE, Slurm's `srun` in SLURM_PROCID, SLURM_STEP_NUM_TASKS and SLURM_LOCALID. The
processes meet at MASTER_ADDR:MASTER_PORT, which a Slurm job derives from its first node and its
number, or in a file that detrkit's launcher names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from detrkit.errors import UsageError

#: Set by detrkit's launcher: the file in which its processes meet.
MEETING_FILE = "DETRKIT_MEETING_FILE"

_SLURM_PORTS = range(20_000, 30_000)


@dataclass(frozen=True, slots=True)
class Place:
    """This process among those that train together.

    Attributes:
        rank: its number; 0 is the main process, which writes and prints.
        world_size: how many there are on all machines.
        local_rank: its number on this machine.
        local_world_size: how many there are on this machine.
        meeting_point: URL where the processes find each other; "" for a single one.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    meeting_point: str = ""


def find_place(environment: Mapping[str, str] | None = None) -> Place:
    """The place that the environment gives this process; a single one if it says nothing.

    Raises:
        UsageError: the environment contradicts itself.
    """
    env = os.environ if environment is None else environment
    if "RANK" in env and "WORLD_SIZE" in env:
        return _of_launcher(env)
    if "SLURM_STEP_ID" in env or "SLURM_STEP_NUM_TASKS" in env:
        return _of_slurm(env)
    return Place()


def _of_launcher(env: Mapping[str, str]) -> Place:
    """`torchrun`, detrkit's launcher, or whoever sets the same variables."""
    rank, world_size = _number(env, "RANK"), _number(env, "WORLD_SIZE")
    if not 0 <= rank < world_size:
        raise UsageError(f"RANK={rank} and WORLD_SIZE={world_size} contradict each other")
    if world_size == 1:
        return Place()
    if MEETING_FILE in env:
        meeting_point = _file_url(env[MEETING_FILE])
    elif "MASTER_ADDR" in env and "MASTER_PORT" in env:
        meeting_point = "env://"
    else:
        raise UsageError(
            "RANK and WORLD_SIZE are set, but not MASTER_ADDR and MASTER_PORT",
            hint="start the processes with torchrun, or with --nproc or --devices",
        )
    return Place(
        rank,
        world_size,
        _number(env, "LOCAL_RANK", rank),
        _number(env, "LOCAL_WORLD_SIZE", world_size),
        meeting_point,
    )


def _of_slurm(env: Mapping[str, str]) -> Place:
    """A task of `srun`. Within a job but outside of `srun` there is a single process."""
    name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS"
    world_size = _number(env, name, 1)
    if world_size == 1:
        return Place()
    rank, local_rank = _number(env, "SLURM_PROCID"), _number(env, "SLURM_LOCALID")
    lists = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    nodes = next((env[name] for name in lists if env.get(name)), "")
    address = env.get("MASTER_ADDR") or first_host(nodes)
    job, step = _number(env, "SLURM_JOB_ID", 0), _number(env, "SLURM_STEP_ID", 0)
    port = env.get("MASTER_PORT") or _SLURM_PORTS[(job * 7 + step) % len(_SLURM_PORTS)]
    tasks = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE", "")
    here = _tasks_of_node(tasks, _number(env, "SLURM_NODEID", 0), world_size)
    return Place(rank, world_size, local_rank, here, f"tcp://{address}:{port}")


def first_host(nodes: str) -> str:
    """The first of a Slurm node list: `gpu[003-005,9],login` -> `gpu003`.

    Raises:
        UsageError: the list is empty.
    """
    match = re.match(r"([^,\[\]\s]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes) or re.match(
        r"()\[(\d+)[^\]]*\]([^,]*)", nodes
    )
    if match is None:
        raise UsageError(
            f"SLURM_NODELIST={nodes!r} names no node", hint="set MASTER_ADDR and MASTER_PORT"
        )
    return "".join(part or "" for part in match.groups())


def _tasks_of_node(text: str, node: int, default: int) -> int:
    """How many tasks a node has: the third number of `2(x3),1` is 2."""
    counts: list[int] = []
    for tasks, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(tasks)] * int(times or 1)
    return counts[node] if node < len(counts) else default


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = env.get(name, "")
    if not text and default is not None:
        return default
    if not re.fullmatch(r"\d+", text):
        raise UsageError(
            f"the environment says {name}={text!r}, which is not a number"
            if text
            else f"the environment lacks {name}",
            hint="start the processes with torchrun, srun, or --nproc or --devices",
        )
    return int(text)


def _file_url(path: str) -> str:
    """`file:///tmp/x`; on Windows `file:///C:/x`."""
    return "file:///" + path.replace("\\", "/").lstrip("/")
