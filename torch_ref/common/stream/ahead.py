"""Work that threads do ahead of its use, in order; none outlives its `with` block."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from ..cores import count_cores

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def count_threads() -> int:
    """Returns how many row groups are read at a time: one a core, as decoding keeps it busy, but four at most."""
    return min(4, count_cores())


@contextmanager
def reading_threads() -> Iterator[ThreadPoolExecutor]:
    """Yields threads that read; at the end, or at an error, those still waiting are dropped and the rest awaited."""
    threads = ThreadPoolExecutor(count_threads(), "read-parquet")
    try:
        yield threads
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def read_in_order(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yields `function(item)` of each item, in their order; a few are computed ahead in threads.

    Args:
        function: what to do; its error is raised where its result would come.
        items: what it is done with.
    """
    with reading_threads() as threads:
        waiting: deque[Future[_Result]] = deque()
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) > count_threads():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
