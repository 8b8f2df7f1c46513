"""What the user asks for: one job, whole and valid, or a ValueError."""

from collections.abc import Mapping
import dataclasses
import difflib
import re
from typing import Any

from launch import tokens

BACKENDS = ('local', 'slurm', 'tpu-vm', 'gke', 'xpk')
_HOSTS = ('local', 'slurm')
_CLOUD = ('tpu-vm', 'gke', 'xpk')
_GOOGLE = ('tpu-vm', 'xpk')
MODES = {
    'run': 'train',
    'eval': 'evaluate',
    'infer': 'infer',
    'embed': 'embed',
}


def _field(
    default: Any, help_text: str, on: tuple[str, ...] = BACKENDS
) -> Any:
  metadata = {'help': help_text, 'on': on}
  if default is dict:
    return dataclasses.field(default_factory=dict, metadata=metadata)
  if default is dataclasses.MISSING:
    return dataclasses.field(metadata=metadata)
  return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobSpec:
  """Fields are flags of the command line and keys of a job file.

  '' and 0 stand for what is not given. Raises ValueError, naming the flag and
  how to mend it.
  """

  name: str = _field(
      dataclasses.MISSING, 'of the job: a-z, 0-9 and -, at most 40'
  )
  workdir: str = _field(
      dataclasses.MISSING, 'of user_llm.main, as the hosts see it'
  )
  on: str = _field('local', f'where: local:N or {", ".join(BACKENDS)}')
  mode: str = _field('train', f'of user_llm.main: {", ".join(MODES.values())}')
  gin_file: tuple[str, ...] = _field((), 'of user_llm.main; repeatable')
  gin: Mapping[str, str] = _field(dict, 'NAME=VALUE, a macro of the gin files')
  input: str = _field('', 'of infer and embed')
  output: str = _field('', 'of infer and embed')
  args: tuple[str, ...] = _field((), 'further flags of user_llm.main')
  env: Mapping[str, str] = _field(dict, 'NAME=VALUE, for every process')
  secret: Mapping[str, str] = _field(
      dict,
      'NAME=REFERENCE, a variable by reference: file:PATH (local, slurm), '
      'k8s:SECRET/KEY (gke) or gcp:SECRET (tpu-vm)',
      ('local', 'slurm', 'gke', 'tpu-vm'),
  )
  grace_secs: int = _field(120, 'from the first signal to the last')
  python: str = _field('.venv/bin/python', 'interpreter on the hosts', _HOSTS)
  submission: int = _field(1, 'how often the job was submitted')

  fake_devices: int = _field(0, 'CPU devices of a process', ('local',))

  nodes: int = _field(1, 'machines', ('slurm', 'gke'))
  gpus_per_node: int = _field(0, 'GPUs of each machine', ('slurm', 'gke'))
  processes_per_node: int = _field(
      0, 'default: one for each GPU, or one', ('slurm',)
  )
  time: str = _field('', 'limit: [DAYS-]HOURS:MINUTES:SECONDS', ('slurm',))
  slurm_args: tuple[str, ...] = _field(
      (), 'further flags of sbatch, such as --partition=gpu', ('slurm',)
  )
  code: str = _field(
      '', 'snapshot to run; default: one of the checkout, now', ('slurm',)
  )

  image: str = _field('', 'container image, REPOSITORY@sha256:DIGEST', _CLOUD)
  tpu: str = _field('', 'TPU slice, such as v6e-16', _CLOUD)
  slices: int = _field(1, 'TPU slices', _CLOUD)
  spot: bool = _field(False, 'capacity that can be taken away', _CLOUD)
  volume: Mapping[str, str] = _field(
      dict,
      'MOUNT=SOURCE: gs://BUCKET[/FOLDER] (gke, tpu-vm), pvc:CLAIM (gke) or '
      'storage:NAME (xpk)',
      _CLOUD,
  )
  zone: str = _field('', 'Google Cloud zone', _GOOGLE)
  project: str = _field('', 'Google Cloud project', _GOOGLE)
  reserved: bool = _field(False, 'from the reservation', ('tpu-vm',))
  runtime_version: str = _field('', 'software of the TPU VM', ('tpu-vm',))
  cluster: str = _field('', 'GKE cluster', ('xpk',))
  service_account: str = _field('', 'to run as', ('gke', 'tpu-vm'))
  gpu: str = _field('', 'kind of GPU, such as h100-80gb-8', ('gke',))
  context: str = _field('', 'of kubectl', ('gke',))
  namespace: str = _field('default', 'of Kubernetes', ('gke', 'xpk'))
  queue: str = _field('', 'LocalQueue of Kueue', ('gke',))
  priority: str = _field('', 'class: of the cluster, or of xpk', ('gke', 'xpk'))

  def __post_init__(self):
    _check_types(self)
    _check_place(self)
    _check_texts(self)
    _check_mode(self)
    if not re.fullmatch(r'[a-z]([a-z0-9-]{0,38}[a-z0-9])?', self.name):
      raise error(
          self, 'name', 'must be a-z, 0-9 and -, start with a letter, end with '
          'a letter or digit, and have at most 40 characters'
      )
    if not self.workdir:
      raise error(self, 'workdir', 'must be given')

  @property
  def backend(self) -> str:
    return self.on.partition(':')[0]

  @property
  def local_processes(self) -> int:
    return int(self.on.partition(':')[2] or 1)


def error(spec: JobSpec, key: str, problem: str) -> ValueError:
  """The error of one field: '--time='x': must be ...'."""
  end = '' if problem.endswith(('.', '?')) else '.'
  return ValueError(f'--{key}={getattr(spec, key)!r}: {problem}{end}')


def fields() -> dict[str, dataclasses.Field]:
  return {field.name: field for field in dataclasses.fields(JobSpec)}


def suggestion(name: str, known: Any) -> str:
  """' Did you mean X?', or ''."""
  close = difflib.get_close_matches(name, list(known), n=1)
  return f' Did you mean {close[0]}?' if close else ''


def _check_types(spec: JobSpec) -> None:
  wanted = {
      str: 'a text',
      int: 'an integer',
      bool: 'true or false',
      tuple[str, ...]: 'a list of texts',
      Mapping[str, str]: 'a table of texts',
  }
  for key, field in fields().items():
    value = getattr(spec, key)
    if field.type in (str, int, bool):
      fits = type(value) is field.type
    elif field.type == tuple[str, ...]:
      if isinstance(value, list):
        value = tuple(value)
        object.__setattr__(spec, key, value)
      fits = isinstance(value, tuple) and _are_texts(value)
    else:
      fits = isinstance(value, Mapping) and _are_texts(
          (*value.keys(), *value.values())
      )
      if fits:  # In one order, so that equal jobs are equal bytes.
        object.__setattr__(spec, key, dict(sorted(value.items())))
    if not fits:
      raise error(spec, key, f'must be {wanted[field.type]}')


def _are_texts(values: Any) -> bool:
  return all(isinstance(value, str) for value in values)


def _check_place(spec: JobSpec) -> None:
  if spec.backend not in BACKENDS:
    raise error(
        spec, 'on', f'must be one of {", ".join(BACKENDS)}, or local:N.'
        + suggestion(spec.on, BACKENDS)
    )
  if ':' in spec.on and not re.fullmatch(r'local:[1-9]\d{0,3}', spec.on):
    raise error(spec, 'on', 'only local takes a number: local:2 is 2 processes')
  for key, field in fields().items():
    default = {} if field.default is dataclasses.MISSING else field.default
    places = field.metadata['on']
    if spec.backend not in places and getattr(spec, key) != default:
      raise error(
          spec, key, f'is for --on={" or ".join(places)}; leave it out with '
          f'--on={spec.on}'
      )
  for key in ('nodes', 'slices', 'grace_secs', 'submission'):
    if getattr(spec, key) < 1:
      raise error(spec, key, 'must be at least 1')
  for key in ('fake_devices', 'gpus_per_node', 'processes_per_node'):
    if getattr(spec, key) < 0:
      raise error(spec, key, 'must not be negative')


def _check_texts(spec: JobSpec) -> None:
  for key in fields():
    value = getattr(spec, key)
    texts = {key: value} if isinstance(value, str) else value
    if isinstance(texts, tuple):
      texts = {key: '\n'.join(texts)}
    for name, text in texts.items() if isinstance(texts, dict) else ():
      if '\0' in text or not text.isprintable() and _has_surrogate(text):
        raise ValueError(f'--{key}: NUL or half a character in {text!r}.')
      is_literal_secret = key == 'env' and tokens.names_secret(name) and (
          text and not text.startswith('/')
      )
      if is_literal_secret or tokens.looks_secret(text):
        raise ValueError(
            f'--{key}: {name} looks like a secret. Give it by reference: '
            '--secret=NAME=REFERENCE, see --help.'
        )
  for key in ('env', 'secret'):
    for name in getattr(spec, key):
      if not re.fullmatch(r'[A-Za-z_][A-Za-z0-9_]*', name):
        raise ValueError(f'--{key}: {name!r} is no name of a variable.')
  for name in spec.gin:
    if not re.fullmatch(r'[\w./@%]+', name):
      raise ValueError(f'--gin: {name!r} is no name of a gin macro.')


def _has_surrogate(text: str) -> bool:
  return any('\ud800' <= character <= '\udfff' for character in text)


def _check_mode(spec: JobSpec) -> None:
  if spec.mode not in MODES.values():
    raise error(
        spec, 'mode', f'must be one of {", ".join(MODES.values())}'
    )
  if spec.mode == 'train' and not spec.gin_file:
    raise error(spec, 'gin_file', 'training needs at least one')
  for key in ('input', 'output'):
    is_needed = spec.mode in ('infer', 'embed')
    if is_needed and not getattr(spec, key):
      raise error(spec, key, f'{spec.mode} needs it')
    if not is_needed and getattr(spec, key):
      raise error(spec, key, f'{spec.mode} has none')
