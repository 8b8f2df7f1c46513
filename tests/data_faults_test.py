"""Damaged data ends every mode at its start: exit code 2, the file is named."""

import json
import pathlib
import shutil

import gin
import pytest
import small_user_llm

from user_llm import gin_utils
from user_llm import main as main_lib
from user_llm.data import records
from user_llm.data import vocabulary

_SHARD = 'tiny-train.tfrecord-00001-of-00002'


def _cut(path):
  path.write_bytes(path.read_bytes()[:-30])


def _flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0x20
  path.write_bytes(data)


_FAULTS = {
    'short': (_cut, 'bytes, not'),
    'empty': (lambda path: path.write_bytes(b''), 'has 0 bytes, not'),
    'missing': (lambda path: path.unlink(), 'is missing'),
    'flipped': (_flip, 'is damaged'),
}


@pytest.fixture(name='run', scope='module')
def _run(tmp_path_factory, tiny_dataset, tiny_vocabulary):
  """A dataset of its own, and a workdir with a checkpoint of it."""
  folder = tmp_path_factory.mktemp('faults')
  data_dir = pathlib.Path(shutil.copytree(tiny_dataset, folder / 'data'))
  small_user_llm.write_workdir(
      folder / 'work',
      small_user_llm.USER_LLM,
      DATA_DIR=str(data_dir),
      VOCABULARY=tiny_vocabulary,
  )
  # As training saves it, so that the run can be resumed.
  config = folder / 'work' / 'config.gin'
  gin_utils.load_config([str(config)])
  config.write_text(gin_utils.config_text())
  event = {'item': 's3', 'rating': 4}
  user = {'user': 'u', 'history': [event], 'question': 'next_item'}
  (folder / 'users.jsonl').write_text(json.dumps(user))
  return folder, data_dir


@pytest.fixture(name='whole', autouse=True)
def _whole(run, tiny_dataset, monkeypatch, tmp_path):
  """Every test has the dataset as it was, read anew."""
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'jax'))
  gin.clear_config()
  yield
  gin.clear_config()
  shutil.rmtree(run[1])
  shutil.copytree(tiny_dataset, run[1])
  _forget()


def _forget():
  records._load_events.cache_clear()
  records._load_texts.cache_clear()


def _main(folder, mode, *flags):
  flags = [f'--workdir={folder / "work"}', *flags]
  if mode == 'train':
    flags.append(f'--gin_file={folder / "work" / "config.gin"}')
  if mode in ('infer', 'embed'):
    flags += [f'--input={folder / "users.jsonl"}', f'--output={folder / "out"}']
  return main_lib.main([mode, *flags])


def _files(folder):
  return {p for p in (folder / 'work').rglob('*') if p.is_file()}


@pytest.mark.parametrize('mode', ['train', 'evaluate', 'infer', 'embed'])
@pytest.mark.parametrize('fault', _FAULTS)
def test_a_damaged_shard(mode, fault, run, capsys):
  folder, data_dir = run
  damage, told = _FAULTS[fault]
  damage(data_dir / _SHARD)
  _forget()
  before = _files(folder)
  assert _main(folder, mode) == 2
  error = capsys.readouterr().err
  assert _SHARD in error and told in error and 'Traceback' not in error
  assert 'python -m data_prep verify' in error
  assert not (folder / 'out').exists()
  assert _files(folder) == before


@pytest.mark.parametrize(
    'name', ['schema.json', 'catalogue.jsonl', 'dataset_info.json']
)
def test_a_damaged_description(name, run, capsys):
  folder, data_dir = run
  text = (data_dir / name).read_text()
  # A title, a count: still JSON, and of the same size.
  position = max(i for i, c in enumerate(text) if c in '1234567')
  changed = text[:position] + str(int(text[position]) + 1) + text[position + 1:]
  (data_dir / name).write_text(changed)
  _forget()
  assert _main(folder, 'train') == 2
  error = capsys.readouterr().err
  assert name in error and 'Traceback' not in error


@pytest.mark.parametrize(
    'name', ['schema.json', 'catalogue.jsonl', 'manifest.json']
)
@pytest.mark.parametrize('text', ['', '{', '[]', '{"files": 3}', '\0'])
def test_what_is_no_description(name, text, run, capsys):
  folder, data_dir = run
  (data_dir / name).write_text(text)
  _forget()
  assert _main(folder, 'train') == 2
  error = capsys.readouterr().err
  assert name in error and 'Traceback' not in error


def test_other_events_of_the_same_items(run, capsys):
  """Whoever changes the records and the manifest is found out, too."""
  folder, data_dir = run
  other = data_dir / 'tiny-train.tfrecord-00000-of-00002'
  manifest = json.loads((data_dir / 'manifest.json').read_text())
  files = manifest['files']
  first, second = other.read_bytes(), (data_dir / _SHARD).read_bytes()
  other.write_bytes(second)
  (data_dir / _SHARD).write_bytes(first)
  files[other.name], files[_SHARD] = files[_SHARD], files[other.name]
  (data_dir / 'manifest.json').write_text(json.dumps(manifest))
  _forget()
  for mode in ('train', 'evaluate'):
    gin.clear_config()
    assert _main(folder, mode) == 2
    error = capsys.readouterr().err
    assert 'was made with events' in error and 'ALLOW_DATA_CHANGE' in error


def test_another_vocabulary(run, tiny_vocabulary, tmp_path, capsys):
  folder, data_dir = run
  other = tmp_path / 'other.model'
  lines = vocabulary.corpus(str(data_dir))
  other.write_bytes(vocabulary.train(lines, size=140))
  assert _main(folder, 'evaluate', f'--gin.VOCABULARY="{other}"') == 2
  error = capsys.readouterr().err
  for path in (tiny_vocabulary, str(other)):
    assert vocabulary.fingerprint(vocabulary.load(path)) in error
  assert 'VOCABULARY must be' in error and 'Traceback' not in error


def test_another_model(run, capsys):
  folder, _ = run
  assert _main(folder, 'evaluate', '--gin.DECODER_MLP_DIM=24') == 2
  error = capsys.readouterr().err
  assert 'does not fit MODEL' in error and 'Traceback' not in error
  rows = [line.split('  ') for line in error.splitlines() if ' 24)' in line]
  assert rows and all('decoder/' in ''.join(row) for row in rows)
