"""The command line of one process of a job, the same on every backend."""

from collections.abc import Mapping
import base64
import json
import posixpath

from launch import spec as spec_lib


def main_args(spec: spec_lib.JobSpec) -> tuple[str, ...]:
  """Arguments of `python -m user_llm.main`."""
  inputs = [
      f'--{key}={getattr(spec, key)}'
      for key in ('input', 'output')
      if getattr(spec, key)
  ]
  return (
      spec.mode,
      *(f'--gin_file={path}' for path in spec.gin_file),
      f'--workdir={spec.workdir}',
      *inputs,
      *(f'--gin.{name}={value}' for name, value in spec.gin.items()),
      *spec.args,
  )


def entry_args(
    spec: spec_lib.JobSpec, distributed: Mapping[str, str] | None = None
) -> tuple[str, ...]:
  """Arguments of `python -m launch.entry`.

  Args:
    spec: The job.
    distributed: What tells `runtime.distributed` of the other processes.
  """
  files = {
      name: reference
      for name, reference in spec.secret.items()
      if reference.startswith('file:')
  }
  env = {**spec.env, **(distributed or {})}
  return (
      f'--job={spec.name}',
      f'--submission={spec.submission}',
      f'--workdir={spec.workdir}',
      *(f'--env={name}={value}' for name, value in env.items()),
      *(f'--secret={name}={value}' for name, value in files.items()),
      '--',
      *main_args(spec),
  )


def logs(spec: spec_lib.JobSpec) -> str:
  """The folder of the ranks' logs, where ranks do not log elsewhere."""
  return posixpath.join(spec.workdir, 'logs', spec.name)


def pack(args: tuple[str, ...]) -> str:
  """Arguments as one word that no shell and no template can break."""
  text = json.dumps(args, ensure_ascii=False, separators=(',', ':'))
  return base64.urlsafe_b64encode(text.encode()).decode()


def unpack(word: str) -> list[str]:
  return json.loads(base64.urlsafe_b64decode(word))
