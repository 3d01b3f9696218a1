"""What the processes of a distributed training do together; a process that is alone does it at once."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import distributed, nn


def alone() -> bool:
    """Whether there is one process."""
    return distributed.get_world_size() == 1


def is_first() -> bool:
    """Whether this process is the one that writes and logs."""
    return distributed.get_rank() == 0


def agree(*numbers: int) -> Sequence[int]:
    """The largest of every number over all processes, so that they stop and skip together."""
    if alone():
        return numbers
    together = paddle.to_tensor([float(n) for n in numbers])
    distributed.all_reduce(together, op=distributed.ReduceOp.MAX)
    return [int(n) for n in together.numpy()]


def share_seed(seed: int) -> int:
    """The first process' seed."""
    if alone():
        return seed
    shared = paddle.to_tensor([seed], dtype="int64")
    distributed.broadcast(shared, 0)
    return int(shared)


def share_statistics(network: nn.Layer) -> None:
    """Give every process the running statistics of the first, which are those that are saved."""
    if not alone():
        for value in [*network.parameters(), *network.buffers()]:
            if value.stop_gradient:
                distributed.broadcast(value, 0)


def wait_for_all() -> None:
    """Go on when all processes have come here."""
    if not alone():
        distributed.barrier()
