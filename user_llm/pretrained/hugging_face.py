"""A directory as Hugging Face has it: config.json and safetensors.

Read lazily, a tensor at a time, from one file or from the shards of an index.
"""

from collections.abc import Iterator, Mapping
import json
import pathlib
import re
from typing import Any

import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from user_llm.pretrained import families

CONFIG = 'config.json'
_SINGLE = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'
_DTYPES = ('F32', 'F16', 'BF16')
_SHARD = re.compile(r'[\w-][\w.-]*\.safetensors')
# Buffers in old files, which the decoder computes.
_COMPUTED = re.compile(r'.*\.rotary_emb\.inv_freq')


class Directory:
  """Weights to read; see `loading.Source`."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    self.config = read_config(path)
    self._norm_offset = families.norm_offset(self.config)
    self._files = {}
    self.shapes: dict[str, tuple[int, ...]] = {}
    for shard, names in self._shards().items():
      file = _open(path / shard)
      found = set(file.keys())
      if names is not None and found != names:
        odd = sorted(found ^ names)
        raise ValueError(
            f'{path / shard} has other tensors than {_INDEX} says: {odd[:4]}. '
            'Shards of two models?'
        )
      for name in found:
        if not _COMPUTED.fullmatch(name):
          self._files[name] = file
          self.shapes[name] = self._shape(name, path / shard)

  def _shards(self) -> dict[str, set[str] | None]:
    """Names of the tensors that the index says are in each file."""
    index = self.path / _INDEX
    if not index.is_file():
      return {_SINGLE: None}
    weight_map = _json(index).get('weight_map')
    if not isinstance(weight_map, dict):
      raise ValueError(f'{index} has no table weight_map. Download it again.')
    shards: dict[str, set[str] | None] = {}
    for name, shard in weight_map.items():
      # Not a path: what others wrote shall not say what is opened here.
      if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
        raise ValueError(f'{index}: {shard!r} is no name of a file beside it.')
      shards.setdefault(shard, set()).add(name)
    return shards

  def _shape(self, name: str, path: pathlib.Path) -> tuple[int, ...]:
    part = self._files[name].get_slice(name)
    if part.get_dtype() not in _DTYPES:
      raise ValueError(
          f'{path}: {name} is {part.get_dtype()}; {", ".join(_DTYPES)} can be '
          'read.'
      )
    return tuple(part.get_shape())

  def read(self, name: str) -> np.ndarray:
    tensor = self._files[name].get_tensor(name)
    if self._norm_offset and name.endswith('norm.weight'):
      return tensor.astype(np.float32) + self._norm_offset
    return tensor


def read_config(path: pathlib.Path) -> dict[str, Any]:
  """The config.json of a directory."""
  return _json(path / CONFIG)


def _json(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    raise ValueError(f'{path}: no such file.')
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} is not JSON: {error}.') from None
  if not isinstance(found, dict):
    raise ValueError(f'{path} is no JSON object. Download it again.')
  return found


def _open(path: pathlib.Path) -> Any:
  if not path.is_file():
    raise ValueError(
        f'{path}: no such file. Is the download complete, and are the weights '
        'in safetensors?'
    )
  try:
    return safetensors.safe_open(path, framework='numpy')
  except safetensors.SafetensorError as error:
    raise ValueError(
        f'{path} ({path.stat().st_size} bytes) is only a part of a safetensors '
        f'file, or none: {error}. Download it again.'
    ) from None


def write(
    path: pathlib.Path,
    config: Mapping[str, Any],
    tensors: Iterator[tuple[str, np.ndarray]],
    shard_bytes: int,
) -> None:
  """Writes a directory, holding one shard at a time.

  Args:
    path: To make.
    config: For config.json.
    tensors: Names and values.
    shard_bytes: A shard is closed when it has as many.
  """
  path.mkdir(parents=True)
  shards: list[list[str]] = []
  part: dict[str, np.ndarray] = {}
  total_bytes = 0

  def close() -> None:
    shards.append(list(part))
    safetensors_numpy.save_file(
        part, path / f'part-{len(shards)}', metadata={'format': 'pt'}
    )
    part.clear()

  for name, value in tensors:
    part[name] = np.ascontiguousarray(value)
    total_bytes += value.nbytes
    if sum(v.nbytes for v in part.values()) >= shard_bytes:
      close()
  if part:
    close()
  weight_map = {}
  for i, names in enumerate(shards, start=1):
    final = f'model-{i:05d}-of-{len(shards):05d}.safetensors'
    final = _SINGLE if len(shards) == 1 else final
    (path / f'part-{i}').rename(path / final)
    weight_map |= dict.fromkeys(names, final)
  if len(shards) > 1:
    index = {'metadata': {'total_size': total_bytes}, 'weight_map': weight_map}
    (path / _INDEX).write_text(json.dumps(index, indent=1) + '\n')
  (path / CONFIG).write_text(json.dumps(dict(config), indent=1) + '\n')
