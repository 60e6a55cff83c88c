"""The environment of torchrun, srun and detrkit's launcher."""

from __future__ import annotations

import pytest

from detrkit.engine.distributed.place import MEETING_FILE, Place, find_place, first_host
from detrkit.errors import UsageError

TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip

#: As `srun` sets them for the fourth of two nodes with two tasks each.
SLURM = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "gpu[007-008]", "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}  # fmt: skip


def test_a_process_of_its_own() -> None:
    assert find_place({}) == Place(0, 1, 0, 1, "")
    assert find_place({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}) == Place()
    assert find_place({"RANK": "3"}) == Place()  # of some other program


def test_torchrun() -> None:
    assert find_place(TORCHRUN) == Place(5, 8, 1, 4, "env://")


def test_our_launcher_needs_no_port() -> None:
    env = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", MEETING_FILE: "/tmp/a b/meeting"}
    assert find_place(env) == Place(1, 2, 1, 2, "file:///tmp/a b/meeting")
    assert find_place({**env, MEETING_FILE: "C:\\t\\m"}).meeting_point == "file:///C:/t/m"


def test_srun() -> None:
    place = find_place(SLURM)
    assert (place.rank, place.world_size, place.local_rank, place.local_world_size) == (3, 4, 1, 2)
    assert place.meeting_point.startswith("tcp://gpu007:2")
    others = [find_place({**SLURM, "SLURM_PROCID": str(n)}) for n in range(4)]
    assert len({other.meeting_point for other in others}) == 1
    again = find_place({**SLURM, "SLURM_STEP_ID": "1"})
    assert again.meeting_point != place.meeting_point
    chosen = find_place({**SLURM, "MASTER_ADDR": "a.b", "MASTER_PORT": "1234"})
    assert chosen.meeting_point == "tcp://a.b:1234"


def test_a_slurm_job_outside_of_srun_is_one_process() -> None:
    batch = {k: v for k, v in SLURM.items() if "STEP" not in k} | {"SLURM_PROCID": "0"}
    assert find_place(batch) == Place()
    assert find_place({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) == Place()


def test_torchrun_within_slurm_is_torchrun() -> None:
    assert find_place({**SLURM, **TORCHRUN}).rank == 5


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[003-005,9],login", "gpu003"),
        ("gpu[12,14-20]", "gpu12"),
        ("rack[1-2]-node", "rack1-node"),
        ("a.example.org", "a.example.org"),
        ("[1-3]", "1"),
    ],
)
def test_first_host(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({**TORCHRUN, "RANK": "8"}, "contradict"),
        ({**TORCHRUN, "RANK": "two"}, "RANK='two', which is not a number"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "not MASTER_ADDR"),
        ({**SLURM, "SLURM_PROCID": ""}, "lacks SLURM_PROCID"),
        ({**SLURM, "SLURM_STEP_NODELIST": ""}, "names no node"),
    ],
)
def test_mistakes(env: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        find_place(env)
