"""Page faults of allocating and freeing, by a process of its own."""

import os
import subprocess
import sys

import pytest

_CODE = '''
import resource, sys
import numpy as np
from user_llm.runtime import host_memory
if sys.argv[1] == 'keep':
  print(host_memory.keep_freed_memory())
else:
  print(False)
np.ones(4_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
  np.ones(4_000_000)  # 32 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
'''


def _run(how: str) -> tuple[str, int]:
  result = subprocess.run(
      [sys.executable, '-c', _CODE, how],
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
      capture_output=True, text=True, check=True,
  )
  done, faults = result.stdout.split()
  return done, int(faults)


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc only')
def test_freed_memory_is_used_again():
  done, faults = _run('keep')
  assert done == 'True'
  _, usual = _run('usual')
  # 32 MB are 8,192 pages, unless the kernel gives huge ones.
  assert faults < 100 and faults < usual / 2
