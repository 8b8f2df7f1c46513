"""Several real processes do what one does: the same figures, written once."""

import json
import pathlib
import re
import shutil
import types

import numpy as np
import pytest

import processes
import small_user_llm
from user_llm import checkpoints
from user_llm import per_example
from user_llm.data import pipeline
from user_llm.runtime import host_batches

_STEPS = 6
# Of 24 users the last batch has fewer, and some hosts have none of them. What
# is frozen lies on all hosts.
_ENCODER = f'''
from __gin__ import dynamic_registration
from user_llm import evaluator
{small_user_llm.ENCODER}
NUM_STEPS = {_STEPS}
WARMUP_STEPS = 2
LOG_EVERY_STEPS = 1
SAVE_EVERY_STEPS = 3
TRAINABLE = ('!.*/mlp/', '.*')
evaluator.RankingEvaluator.batch_size = 13
'''
_REVIEWS = small_user_llm.REVIEWS + '''
from user_llm import answer_evaluator
from user_llm import text_evaluator
DECODER_KV_HEADS = 2
answer_evaluator.AnswerEvaluator.batch_size = 3
text_evaluator.TextEvaluator.batch_size = 9
'''
_USERS = [
    {
        'user': f'u{n}',
        'history': [
            {'item': f's{(7 * n + i) % 40 + 1}', 'rating': i % 5 + 1}
            for i in range(n)
        ],
        'question': 'next_item',
    }
    for n in (3, 1, 15, 12, 5, 2, 7)
]
_REVIEWERS = [
    {**user, 'question': 'review_generation', 'item': f's{i + 1}', 'rating': 4}
    for i, user in enumerate(_USERS)
]

# Rows come back in their order from any mesh; numbers are process 0's.
_ANY_MESH = '''
import jax, numpy as np
from user_llm import partitioning
from user_llm.runtime import host_batches, hosts
assert jax.process_count() == 2 and len(jax.local_devices()) == 2
for order, model in (
    ([0, 1, 2, 3], 1), ([0, 2, 1, 3], 1), ([3, 1, 2, 0], 1),
    ([0, 1, 2, 3], 2), ([2, 0, 1, 3], 2), ([0, 1, 2, 3], 4),
):
  devices = np.array(jax.devices())[order].reshape(1, -1, model)
  mesh = jax.sharding.Mesh(devices, partitioning.MESH_AXES)
  whole = {'x': np.arange(24.).reshape(8, 3), 'ids': np.arange(8)}
  mine = host_batches.mine(whole, mesh)
  assert len(mine['x']) == 8 // host_batches.share(mesh).num_hosts
  out = host_batches.run(jax.jit(lambda x: {**x, 'y': 2 * x['x']}), mine, mesh)
  for name, value in (*whole.items(), ('y', 2 * whole['x'])):
    np.testing.assert_array_equal(out[name], value, str((order, model, name)))
first = jax.process_index() == 0
assert hosts.agreed([3, 8, 12] if first else [8]) == [3, 8, 12]
assert hosts.agreed([] if first else [8]) == []
'''
# The run goes back to a checkpoint.
_BACK = '''
from user_llm import checkpoints, train_state
everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
number = lambda n: jax.device_put(np.float32(n), everywhere)
with checkpoints.Checkpoints(FOLDER, keep=3) as saved:
  for step in (1, 2, 3):
    params = {'x': number(step)}
    state = train_state.TrainState(number(step), params, {}, params, number(0))
    saved.save(state, {})
  saved.forget_after(1)
  assert saved.steps() == [1]
'''


def _write(folder, data_dir, users):
  """The input of the commands."""
  (folder / 'run.gin').write_text(_ENCODER + f'DATA_DIR = {data_dir!r}\n')
  (folder / 'users.jsonl').write_text('\n'.join(map(json.dumps, users)))


def _train(folder):
  return [
      'train', f'--gin_file={folder / "run.gin"}', f'--workdir={folder / "run"}'
  ]


def _infer(folder, workdir):
  return [
      'infer', f'--workdir={workdir}', f'--input={folder / "users.jsonl"}',
      f'--output={folder / "answers.jsonl"}', '--gin.NUM_ANSWERS=2',
      '--gin.TEMPERATURE=0.8', '--gin.MAX_TOKENS=6',
  ]


def _commands(folder, reviews, weights):
  """All that is run: training, what reads workdirs, what is refused."""
  run = f'--workdir={folder / "run"}'
  users = f'--input={folder / "users.jsonl"}'
  out = lambda name: f'--output={folder / name}'
  return [
      _train(folder),
      ['evaluate', run, '--gin.FOLLOW=True'],
      ['embed', run, users, out('users.npz'), '--gin.EMBED_ROWS=3'],
      _infer(folder, reviews),
      ['export', f'--workdir={reviews}', out('decoder')],
      ['cost', out('cost'), f'--gin.WEIGHTS={weights!r}'],
  ]


@pytest.fixture(name='reviews', scope='module')
def _reviews(tmp_path_factory, tiny_dataset, tiny_vocabulary):
  """A workdir that answers questions."""
  workdir = tmp_path_factory.mktemp('processes') / 'reviews'
  small_user_llm.write_workdir(
      workdir, _REVIEWS, DATA_DIR=tiny_dataset, VOCABULARY=tiny_vocabulary
  )
  return workdir


@pytest.fixture(name='run', scope='module')
def _run(tmp_path_factory, tiny_dataset, tiny_weights, reviews):
  """By number of processes: their folder, and what became of each."""

  def group(num_processes):
    folder = tmp_path_factory.mktemp(f'processes-{num_processes}')
    _write(folder, tiny_dataset, _USERS)
    commands = _commands(folder, reviews, tiny_weights)
    if num_processes == 1:
      commands = commands[:-2]  # It would not be refused.
    two = num_processes == 2
    back = _BACK.replace('FOLDER', repr(str(folder / 'back')))
    return processes.Group(
        folder=str(folder),
        commands=commands,
        code=_ANY_MESH + back if two else '',
        num_processes=num_processes,
        num_devices=2 if two else 1,
    )

  found = {}

  def run(num_processes):
    numbers = [n for n in (1, num_processes) if n not in found]
    if numbers:
      groups = [group(n) for n in numbers]
      for n, each, notes in zip(numbers, groups, processes.run(*groups)):
        found[n] = pathlib.Path(each.folder), notes
    return found[num_processes]

  return run


@pytest.fixture(
    name='several',
    scope='module',
    params=[2, pytest.param(4, marks=pytest.mark.slow)],
)
def _several(run, request):
  return run(request.param)


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def _losses(folder):
  found = _lines(folder / 'run' / 'metrics.jsonl')
  return [x['train/loss'] for x in found if 'train/loss' in x]


def test_training_is_that_of_one_process(run, several):
  found, wanted = several[0], run(1)[0]
  assert len(_losses(wanted)) == _STEPS
  np.testing.assert_allclose(_losses(found), _losses(wanted), rtol=1e-6)
  params = [
      checkpoints.Checkpoints(str(folder / 'run')).load_params(_STEPS)
      for folder in (found, wanted)
  ]
  assert params[0].keys() == params[1].keys()
  for path, value in params[0].items():
    np.testing.assert_allclose(
        value, params[1][path], rtol=1e-5, atol=1e-6, err_msg=path
    )


def test_each_process_reads_its_share_only(run, several):
  parts = [np.array(notes['read']) for notes in several[1]]
  (whole,) = [np.array(notes['read']) for notes in run(1)[1]]
  assert len({part.shape for part in parts}) == 1
  assert whole.shape[:2] == (_STEPS, 8)
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


@pytest.mark.parametrize('name', ['3', '6', '6-validation'])
def test_evaluations_are_those_of_one_process(run, several, name):
  """Of a checkpoint by `evaluate`, and of the last step by `train`."""
  files = [
      x[0] / 'run' / 'eval' / 'tiny_events' / name for x in (several, run(1))
  ]
  found, wanted = (
      json.loads(path.with_suffix('.json').read_text()) for path in files
  )
  assert found['num_examples'] == wanted['num_examples'] == 24
  for mine, theirs in zip(found['examples'], wanted['examples'], strict=True):
    assert (mine['user'], mine['truth']) == (theirs['user'], theirs['truth'])
  assert found['models'].keys() == wanted['models'].keys()
  for row, metrics in wanted['models'].items():
    assert found['models'][row].keys() == metrics.keys()
    for metric, value in metrics.items():
      assert found['models'][row][metric] == pytest.approx(value, abs=1e-6)
  each = [per_example.read(f.with_suffix('.npz')) for f in files]
  assert each[0].identity == each[1].identity


def test_embeddings_are_those_of_one_process(run, several):
  found, wanted = (np.load(x[0] / 'users.npz') for x in (several, run(1)))
  assert found['user'].tolist() == [user['user'] for user in _USERS]
  for name in ('user', 'length'):
    np.testing.assert_array_equal(found[name], wanted[name])
  for name in ('embedding', 'sequence'):
    np.testing.assert_allclose(found[name], wanted[name], atol=1e-5)


def _check_answers(found, wanted):
  assert [x['user'] for x in found] == [x['user'] for x in _USERS]
  for mine, theirs in zip(found, wanted, strict=True):
    assert len(mine['answers']) == 2
    pairs = zip(mine['answers'], theirs['answers'], strict=True)
    for answer, expected in pairs:
      assert answer['text'] == expected['text']
      # Written with four digits.
      assert answer['score'] == pytest.approx(expected['score'], abs=1.01e-4)


def test_answers_are_those_of_one_process(run, several):
  _check_answers(*(_lines(x[0] / 'answers.jsonl') for x in (several, run(1))))


def test_one_process_writes_and_prints(several):
  folder, (first, *others) = several
  assert not list(folder.rglob('*.partial'))
  written = {pathlib.Path(path) for path in first['written']}
  partial = re.compile(r'\.(.*)\.[^.]*-\d+\.partial')
  assert {'users.npz', 'answers.jsonl', '3.json', '3.npz'} <= {
      match[1] for path in written if (match := partial.fullmatch(path.name))
  }
  for line in (' test: n=24', ' embeddings of width', ' answers -> '):
    assert first['stdout'].count(line) == (2 if ' test: ' in line else 1)
  for other in others:
    # Who it is, told before it trains.
    (said,) = other['stdout'].splitlines()
    assert said.startswith('process '), said
    # Orbax lets each write its part of a checkpoint.
    for path in map(pathlib.Path, other['written']):
      assert 'checkpoints' in path.parts, path


def test_what_one_process_does_is_refused(several):
  folder, each = several
  for notes in each:
    assert notes['codes'] == [0, 0, 0, 0, 2, 2]
    assert 'Traceback' not in notes['stderr']
    for mode in ('export', 'cost'):
      assert f'error: `{mode}` is done by one process and here are ' in (
          notes['stderr']
      )
  assert not (folder / 'decoder').exists()
  assert not (folder / 'cost' / 'cost.csv').exists()


@pytest.mark.slow
def test_a_model_across_processes(reviews, tiny_dataset, tmp_path):
  """Two hosts of two processes each, that share a model; texts are drawn."""
  found = {}
  for num_processes in (1, 4):
    folder = tmp_path / str(num_processes)
    folder.mkdir()
    shutil.copytree(reviews, folder / 'reviews')
    _write(folder, tiny_dataset, _REVIEWERS)
    commands = [
        _train(folder),
        ['evaluate', f'--workdir={folder / "reviews"}'],
        _infer(folder, folder / 'reviews'),
    ]
    if num_processes > 1:
      mesh = '--gin.partitioning.MeshConfig.model=2'
      commands = [[*command, mesh] for command in commands]
    group = processes.Group(
        folder=str(folder), commands=commands, num_processes=num_processes
    )
    (notes,) = processes.run(group)
    assert notes[0]['codes'] == [0, 0, 0]
    models = {
        path.parent.name: json.loads(path.read_text())['models']['user_llm']
        for path in folder.glob('reviews/eval/*/3.json')
    }
    answers = _lines(folder / 'answers.jsonl')
    found[num_processes] = _losses(folder), models, answers
  read = [note['read'] for note in notes]
  assert read[0] == read[1] != read[2] == read[3]
  mine, theirs = found[4], found[1]
  np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-5)
  assert len(theirs[1]) == 2 and mine[1].keys() == theirs[1].keys()
  for task, metrics in theirs[1].items():
    for metric, value in metrics.items():
      assert mine[1][task][metric] == pytest.approx(value, abs=1e-5), metric
  _check_answers(mine[2], theirs[2])


def _mesh(rows):
  """Devices of the processes in rows along `model`, without JAX's."""
  devices = np.array(
      [[types.SimpleNamespace(process_index=p) for p in row] for row in rows]
  )
  return types.SimpleNamespace(
      devices=devices[None],
      shape={'replica': 1, 'data': len(rows), 'model': len(rows[0])},
  )


@pytest.mark.parametrize(
    ['rows', 'shares'],
    [
        ([[0], [0], [1], [1]], [(0, 2), (1, 2)]),
        ([[1], [0], [1], [0]], [(1, 2), (0, 2)]),
        ([[0, 1], [0, 1]], [(0, 1), (0, 1)]),
        ([[0, 0, 1, 1], [2, 2, 3, 3]], [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ],
)
def test_shares(rows, shares, monkeypatch):
  for process, share in enumerate(shares):
    monkeypatch.setattr('jax.process_index', lambda p=process: p)
    assert host_batches.share(_mesh(rows)) == share


@pytest.mark.parametrize('rows', [[[0, 0, 1], [1, 2, 2]], [[0], [0], [1]]])
def test_a_mesh_without_shares(rows):
  with pytest.raises(ValueError, match="'model': .* overlap or differ in size"):
    host_batches.share(_mesh(rows))


@pytest.mark.parametrize('task', ['events', 'next_item'])
def test_hosts_read_the_batches_of_one_host(
    task, tiny_dataset, tiny_vocabulary
):
  """A whole epoch and more, row by row."""
  dataset = pipeline.Dataset(
      data_dir=tiny_dataset,
      task=task,
      history_length=12,
      vocabulary=None if task == 'events' else tiny_vocabulary,
  )
  num_steps = dataset.num_examples('train') // 8 + 1
  by_hosts = []
  for num_hosts in (1, 2, 4):
    readers = [
        dataset.train_batches(
            batch_size=8, seed=3, host=host, num_hosts=num_hosts
        )
        for host in range(num_hosts)
    ]
    steps = [[next(reader) for reader in readers] for _ in range(num_steps)]
    sizes = {len(x) for step in steps for part in step for x in part.values()}
    assert sizes == {8 // num_hosts}
    by_hosts.append({
        key: np.concatenate([part[key] for step in steps for part in step])
        for key in steps[0][0]
    })
  assert by_hosts[0].keys() == by_hosts[1].keys() == by_hosts[2].keys()
  for key, value in by_hosts[0].items():
    for other in by_hosts[1:]:
      np.testing.assert_array_equal(other[key], value, key)
