"""What started this process beside others: torchrun, accelerate launch or mpirun, by the variables they set."""

import os

# accelerate launch --cpu hands over to mpirun where there is one, whose kinds each have names of their own.
RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
WORLD_SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
LOCAL_RANK = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")
LOCAL_SIZE = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")


def launched() -> tuple[int, int]:
    """Return (number of this process, how many there are)."""
    return _first(RANK, 0), _first(WORLD_SIZE, 1)


def launched_here() -> tuple[int, int]:
    """Return (number of this process, how many there are) on this machine."""
    return _first(LOCAL_RANK, 0), _first(LOCAL_SIZE, 1)


def wants_cpu() -> bool:
    """Say whether accelerate launch was given --cpu."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def is_left_alone() -> bool:
    """Say whether accelerate launch was asked for several processes and started one: on CPUs it needs MPI for more."""
    return wants_cpu() and "MASTER_PORT" in os.environ and launched()[1] == 1


def _first(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), default)
