"""Memory that is no longer used, given back: neither Arrow nor the C library does so by itself."""

import ctypes
import sys

import pyarrow as pa

# Fewer leave little, and making room anew takes longer than what they leave is worth. More than
# every message of OASST2, of every state, has.
ROWS = 2**18


def give_back(rows: int) -> None:
    """Let the system have what work on so many `rows` has freed, before more is wanted."""
    if rows < ROWS:
        return
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # not every C library has it
        trim(0)
