"""Several processes that train one model: each computes a part of every batch, and all take the same step.

torchrun, accelerate launch or mpirun start them; without these there is one.
Whatever is decided on (rewards, advantages, losses, stops) is brought together first, so that all decide alike, and
the first process alone writes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

# Read before there is a group: its functions keep, as a default, the one they find, whose threads then outlive it and
# now and then took the process down as it ended.
import torch.distributed.nn
from torch import Tensor, distributed
from torch.nn.functional import pad

from training.launcher import launched

Item = TypeVar("Item")
Result = TypeVar("Result")
# Gradients that are sent at once: few calls, and no second copy of a model.
BUCKET = 2**24


@contextmanager
def joined() -> Iterator[None]:
    """Bring the launched processes together for the time of the block; one alone does without."""
    number, everyone = launched()
    if everyone == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, rank=number, world_size=everyone)
    try:
        yield
        distributed.barrier()  # nobody hangs up while another still listens
    finally:
        distributed.destroy_process_group()


def count() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Say whether this is the process that writes."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def share(rows: Sequence[Item]) -> Sequence[Item]:
    """Return this process's part of rows: in order, and as many as the others have, or one fewer."""
    if count() == 1:
        return rows
    number, everyone = distributed.get_rank(), count()
    return rows[len(rows) * number // everyone : len(rows) * (number + 1) // everyone]


def gather(value: Result) -> list[Result]:
    """Return every process's value, in order; tensors must be on the CPU."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    distributed.all_gather_object(values, value)
    return values


def gather_rows(rows: Tensor) -> Tensor:
    """Return all processes' rows (B, T, ...) as one tensor, in order; short ones are padded with 0 to the widest T."""
    if count() == 1:
        return rows
    parts = gather(rows.cpu())
    if rows.dim() > 1:
        width, trailing = max(part.shape[1] for part in parts), [0, 0] * (rows.dim() - 2)
        parts = [pad(part, [*trailing, 0, width - part.shape[1]]) for part in parts]
    return torch.cat(parts).to(rows.device)


def total(numbers: Sequence[float]) -> list[float]:
    """Return the sums of numbers over all processes, in float64; of one process they are what they were."""
    if count() == 1:
        return list(numbers)
    sums = torch.tensor(list(numbers), dtype=torch.float64)
    distributed.all_reduce(sums)
    return [float(value) for value in sums]


def sum_tensor(values: Tensor) -> Tensor:
    """Return a tensor of the CPU added up over all processes."""
    if count() > 1:
        distributed.all_reduce(values)
    return values


def anywhere(flag: bool) -> bool:
    """Say whether any process says so."""
    return total([float(flag)])[0] > 0


def first_does(action: Callable[[], Result]) -> Result:
    """Run an action in the first process alone; every process waits, and gets its result or its error."""
    if count() == 1:
        return action()
    outcome: list[Any] = [None, None]
    if is_first():
        try:
            outcome[0] = action()
        except Exception as error:  # noqa: BLE001 - raised again, by all
            outcome[1] = error
    distributed.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    result: Result = outcome[0]
    return result


def begin_alike(weights: Sequence[Tensor]) -> None:
    """Give every process the first one's weights, in place."""
    if count() > 1:
        for weight in weights:
            distributed.broadcast(weight.view(-1).view(torch.uint8), 0)  # not every backend knows every dtype


def sum_gradients(gradients: Sequence[Tensor | None], weights: Sequence[Tensor]) -> list[Tensor | None]:
    """Return gradients added up over all processes; a weight that has one anywhere has one everywhere.

    weights: those that they are of.
    """
    known = torch.tensor([gradient is not None for gradient in gradients], dtype=torch.int64)
    distributed.all_reduce(known)
    summed = list(gradients)
    for place, (weight, holders) in enumerate(zip(weights, known.tolist(), strict=True)):
        if holders and summed[place] is None:
            summed[place] = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
    for bucket in _buckets([gradient for gradient in summed if gradient is not None]):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        distributed.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in bucket])
        for gradient, total_of_all in zip(bucket, parts, strict=True):
            gradient.copy_(total_of_all.view_as(gradient))
    return summed


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors of one dtype together, up to BUCKET numbers at a time."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        bucket: list[Tensor] = []
        for tensor in (each for each in tensors if each.dtype == dtype):
            if bucket and sum(each.numel() for each in bucket) + tensor.numel() > BUCKET:
                yield bucket
                bucket = []
            bucket.append(tensor)
        yield bucket
