"""Keeps freed memory for the next step, where steps run on the CPU."""

import ctypes
import glob
import os
from typing import Any

# Parameters of glibc's mallopt, see its malloc.h, and their values: freed
# memory never goes back to the kernel, in a single heap that all threads share.
_KEEP = {-1: -1, -2: 64 << 20, -4: 0, -8: 1}
_ACCELERATORS = ('/dev/nvidia[0-9]*', '/dev/accel[0-9]*', '/dev/vfio/[0-9]*')


def keep_freed_memory() -> bool:
  """Tells glibc's malloc to keep what is freed; before JAX is imported.

  XLA on the CPU allocates a step's temporaries anew in every step. By default
  malloc returns the large ones to the kernel, which must clear them each time:
  a third of a training step's time. Hosts of accelerators are left alone: there
  many threads feed, and would wait for each other at the one heap.

  Returns:
    Whether it was done.
  """
  on_cpu = os.environ.get('JAX_PLATFORMS') == 'cpu'
  if not on_cpu and any(glob.glob(device) for device in _ACCELERATORS):
    return False
  libc: Any = ctypes.CDLL(None)
  if not hasattr(libc, 'mallopt'):  # Another system's libc.
    return False
  return all([libc.mallopt(name, value) for name, value in _KEEP.items()])
