"""Several processes that work together, as `launch` starts them; forked, so that nothing is
imported anew."""

import os
import socket
import traceback
from collections.abc import Callable

from finetune import launch


def in_processes(n: int, work: Callable[[int], object]) -> list[int]:
    """Do `work`, which gets its process's rank, in n processes of one group; the statuses they
    ended with."""
    from accelerate.state import AcceleratorState

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(n):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n}
                found = {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
                os.environ.update({key: str(value) for key, value in (place | found).items()})
                # What this process, before it was forked, knew of itself: that it is alone.
                AcceleratorState._reset_state(reset_partial_state=True)
                launch.join()
                work(rank)
                launch.leave()
                code = 0
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitpid(child, 0)[1] for child in children]
