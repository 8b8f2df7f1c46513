"""Test set-up: CPU with 8 fake devices, parsed flags, a tiny dataset.

Programs are compiled without most optimisations: most of the tests' time would
be spent on making code fast that runs once. JAX_DISABLE_MOST_OPTIMIZATIONS=0
and an own XLA_FLAGS turn that off.
"""

import os
import pathlib
import sys

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
os.environ.setdefault(
    'XLA_FLAGS',
    '--xla_force_host_platform_device_count=8'
    ' --xla_cpu_use_fusion_emitters=false',
)
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
sys.path.insert(0, str(pathlib.Path(__file__).parent))

from absl import flags  # pylint: disable=g-import-not-at-top
import pytest

# seqio and others read flags that nobody parses under pytest.
flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope='session')
def tiny_dataset(tmp_path_factory) -> str:
  """Directory of a prepared dataset: 24 users, 40 items, 3 modalities."""
  import fixtures  # Late: it imports TensorFlow.

  return fixtures.write_dataset(tmp_path_factory.mktemp('tiny') / 'tiny')


@pytest.fixture(scope='session')
def tiny_vocabulary(tiny_dataset, tmp_path_factory) -> str:
  """A SentencePiece model of the tiny dataset's text."""
  from user_llm.data import vocabulary

  path = tmp_path_factory.mktemp('vocabulary') / 'tiny.model'
  lines = vocabulary.corpus(tiny_dataset)
  path.write_bytes(vocabulary.train(lines, size=150))
  return str(path)


@pytest.fixture(scope='session')
def tiny_weights(tiny_vocabulary, tmp_path_factory) -> str:
  """A pretrained decoder, as Hugging Face has it, with that vocabulary."""
  import small_weights

  path = tmp_path_factory.mktemp('weights') / 'tiny'
  return small_weights.write(str(path), tiny_vocabulary)


@pytest.fixture(scope='session')
def compilation_cache(tmp_path_factory):
  """Compiles equal programs once, for tests that run training many times."""
  import jax

  settings = {
      'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('jax')),
      'jax_persistent_cache_min_compile_time_secs': 0.1,
      'jax_persistent_cache_min_entry_size_bytes': -1,
  }
  old = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  yield
  for name, value in old.items():
    jax.config.update(name, value)


@pytest.fixture(scope='session')
def real_data() -> pathlib.Path:
  """The folder of real data, or a skip."""
  default = pathlib.Path(__file__).parents[2] / 'shared' / 'data'
  path = pathlib.Path(os.environ.get('USER_LLM_DATA_DIR', default))
  if not path.is_dir():
    pytest.skip(f'no real data: USER_LLM_DATA_DIR or {path}')
  return path


def pytest_terminal_summary(terminalreporter):
  """Says what was left out, and how many inputs `fuzz/` gave the parsers."""
  if terminalreporter.config.option.markexpr == 'not slow':
    folder = pathlib.Path(__file__).parent
    slow = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob('*_test.py')
        if 'mark.slow' in path.read_text('utf-8')
    )
    terminalreporter.write_line(
        f'left out, slow (./launch/test -m slow): some of {", ".join(slow)}'
    )
  counts = {
      report.nodeid.split('::')[-1]: dict(report.user_properties)['fuzz_cases']
      for report in terminalreporter.getreports('passed')
      if 'fuzz_cases' in dict(report.user_properties)
  }
  if counts:
    terminalreporter.write_line(
        f'fuzz: {sum(counts.values()):,} inputs to {len(counts)} tests'
    )
