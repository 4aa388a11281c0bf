"""The number of ranks, from each launcher's environment."""

from __future__ import annotations

import os

import pytest

from holdfast.group import launcher_ranks

SRUN = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "2", "SLURM_NTASKS": "8"}

CASES = {
    "no launcher": ({}, 1),
    "Open MPI": ({"OMPI_COMM_WORLD_SIZE": "4"}, 4),
    "Open MPI, one rank": ({"OMPI_COMM_WORLD_SIZE": "1"}, 1),
    "MPICH": ({"PMI_SIZE": "3", "MPI_LOCALNRANKS": "2"}, 3),
    "MPICH without PMI": ({"MPI_LOCALNRANKS": "2"}, 2),
    "srun": (SRUN, 8),
    "srun with fewer tasks than the job": ({**SRUN, "SLURM_STEP_NUM_TASKS": "2"}, 2),
    "sbatch's own script": ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, 1),
    "batch step": ({**SRUN, "SLURM_STEP_ID": str(0xFFFFFFFB)}, 1),
    "interactive step": ({**SRUN, "SLURM_STEP_ID": str(0xFFFFFFFA)}, 1),
    "mpirun of one rank within srun": ({**SRUN, "OMPI_COMM_WORLD_SIZE": "1"}, 1),
    "nonsense": ({"OMPI_COMM_WORLD_SIZE": "many", "PMI_SIZE": "-3"}, 1),
    "nonsense, then sense": ({"OMPI_COMM_WORLD_SIZE": "", "PMI_SIZE": "5"}, 5),
}


@pytest.mark.parametrize(("env", "ranks"), CASES.values(), ids=CASES.keys())
def test_launcher_ranks(env: dict[str, str], ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("OMPI_", "PMI", "MPI_", "MV2_", "SLURM_"))]:
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert launcher_ranks() == ranks
