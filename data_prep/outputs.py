"""An output directory that appears whole or not at all."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil
import tempfile

from user_llm.data import schema


@contextlib.contextmanager
def output_directory(
    output: str, *, overwrite: bool = False
) -> Iterator[pathlib.Path]:
  """Yields a temporary directory that becomes `output` on success.

  It lies beside the target, so that the last step is one rename. On any error
  it is removed and the target is as it was.

  Args:
    output: The directory to make.
    overwrite: Whether an earlier prepared dataset there may be replaced.

  Yields:
    The temporary directory.

  Raises:
    ValueError: `output` exists and may not be replaced.
  """
  target = pathlib.Path(os.path.abspath(output))
  _check_target(target, overwrite)
  target.parent.mkdir(parents=True, exist_ok=True)
  temporary = pathlib.Path(
      tempfile.mkdtemp(prefix=f'.{target.name}.partial-', dir=target.parent)
  )
  try:
    yield temporary
    # mkdtemp's 0700 would hide the dataset from the group.
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o777 & ~umask)
    _replace(temporary, target)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _check_target(target: pathlib.Path, overwrite: bool) -> None:
  if not os.path.lexists(target):
    return
  if not target.is_dir():
    raise ValueError(f'--output {target} exists and is not a directory.')
  if not any(target.iterdir()):
    return
  if not overwrite:
    raise ValueError(
        f'--output {target} exists and is not empty; give another directory, '
        'or --overwrite to replace it.'
    )
  if not (target / schema.MANIFEST_FILE).is_file():
    raise ValueError(
        f'--output {target} holds no {schema.MANIFEST_FILE}, so it is not a '
        'prepared dataset; --overwrite replaces nothing else.'
    )


def _replace(temporary: pathlib.Path, target: pathlib.Path) -> None:
  if not target.exists() or not any(target.iterdir()):
    os.replace(temporary, target)
    return
  old = pathlib.Path(
      tempfile.mkdtemp(prefix=f'.{target.name}.old-', dir=target.parent)
  )
  os.replace(target, old)
  os.replace(temporary, target)
  shutil.rmtree(old)
