"""Work that threads do before its result is asked for."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def ahead(function: Callable[[A], B], arguments: Iterable[A], *, threads: int, most: int) -> Iterator[B]:
    """Yield `function` of each argument, in order. Threads compute the next results while the caller uses the last one.

    The threads end with the iterator, also when it is dropped before its end.

    Args:
        function: any threads may call it. What it raises is raised here.
        arguments: the arguments. The thread of the caller takes them.
        threads: the number of threads.
        most: how many results may wait for the caller, or be on the way.
    """
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    queue: collections.deque[concurrent.futures.Future[B]] = collections.deque()
    try:
        for argument in arguments:
            queue.append(pool.submit(function, argument))
            if len(queue) > most:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        for future in queue:  # cancel_futures of shutdown fails when the interpreter ends
            future.cancel()
        pool.shutdown()
