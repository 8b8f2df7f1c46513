"""Checks that a place to run is ready, and says how to make it so."""

import shutil

from launch import backends
from launch import spec as spec_lib
from launch.backends import backend


def report(place: str, spec: spec_lib.JobSpec | None) -> int:
  """Prints a line a check; returns 2 if one fails."""
  checks = [
      backend.Check(
          what='git is installed',
          ok=shutil.which('git') is not None,
          mend='apt-get install git',
      ),
      *backends.get(place).checks(spec),
  ]
  for check in checks:
    print(f'{"ok  " if check.ok else "FAIL"}  {check.what}')
    if not check.ok:
      print(f'      {check.mend}')
  return 0 if all(check.ok for check in checks) else 2
