"""What the processes of a distributed training do together; a process that is alone does it at once."""

import paddle
from paddle import distributed


def alone():
    """Whether there is one process."""
    return distributed.get_world_size() == 1


def is_first():
    """Whether this process is the one that writes and logs."""
    return distributed.get_rank() == 0


def agree(*numbers):
    """The largest of every number over all processes, so that they stop and skip together."""
    if alone():
        return numbers
    together = paddle.to_tensor([float(n) for n in numbers])
    distributed.all_reduce(together, op=distributed.ReduceOp.MAX)
    return [int(n) for n in together.numpy()]


def share_seed(seed):
    """The first process' seed."""
    if alone():
        return seed
    shared = paddle.to_tensor([seed], dtype="int64")
    distributed.broadcast(shared, 0)
    return int(shared)


def share_statistics(network):
    """Give every process the running statistics of the first, which are those that are saved."""
    if not alone():
        for value in [*network.parameters(), *network.buffers()]:
            if value.stop_gradient:
                distributed.broadcast(value, 0)


def wait_for_all():
    """Go on when all processes have come here."""
    if not alone():
        distributed.barrier()
