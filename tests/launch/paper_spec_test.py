"""Rows and runs of the paper's tables, and the scales that fit them."""

import pathlib

import pytest

from launch.paper import spec
from launch.paper import workflow


@pytest.fixture(name='scale')
def _scale():
  return spec.load_scale('tiny')


def test_baselines_of_items_alone(scale):
  """SASRec is the encoder with the modality that BERT4Rec reads."""
  runs = spec.load_runs()
  assert runs['sasrec'].gin == runs['encoder'].gin
  assert runs['sasrec'].sizes == runs['encoder'].sizes
  assert runs['sasrec'].macros == runs['bert4rec'].macros
  rows = spec.load_tables()['next_item'].rows
  assert ('sasrec', 'encoder_head') in [(row.run, row.model) for row in rows]
  inputs = workflow.Inputs(
      data=pathlib.Path('d'), label='genre', vocabulary=None, weights=None
  )
  job = workflow.Job(run=runs['sasrec'], seed=0, folder=pathlib.Path('f'))
  argv = workflow.argv(job, scale, inputs)
  assert "--gin.MODALITIES=('item',)" in argv
  assert '--gin.HISTORY_LENGTH=64' in argv


def test_gru4rec_is_sasrec_with_one_gru():
  """At every scale, however many blocks its Transformers have."""
  run = spec.load_runs()['gru4rec']
  assert 'runs/pretrain_gru4rec.gin' in run.gin
  assert spec.load_scale('paper').macros(run)['ENCODER_LAYERS'] == 1
  rows = spec.load_tables()['next_item'].rows
  assert ('gru4rec', 'gru4rec') in [(row.run, row.model) for row in rows]


def test_every_published_number_has_its_row():
  tables = spec.load_tables()
  for numbers in spec.published()['numbers']:
    table = tables[numbers['table']]
    if not table.cost:
      assert numbers['row'] in [row.title for row in table.rows], numbers


@pytest.mark.parametrize('name', spec.scales())
def test_rows_of_a_length_say_how_many_events(name):
  scale = spec.load_scale(name)
  table = spec.titled(spec.load_tables()['length'], scale)
  lengths = [
      scale.sections[section]['HISTORY_LENGTH']
      for section in ('short', 'contextualize', 'long')
  ]
  assert [row.title for row in table.rows] == [
      f'{model}, {length} events'
      for model in ('User-LLM', 'Text prompt') for length in lengths
  ]
  for other in spec.load_tables().values():
    assert not any('{' in row.title for row in spec.titled(other, scale).rows)


@pytest.mark.parametrize(
    ['old', 'new', 'message'],
    [
        ('[perceiver]', '[perciever]', 'perciever is unknown. Did you mean'),
        ('seeds = [0]', 'seeds = []', 'seeds must be whole numbers'),
        ('seeds = [0]', 'seeds = [0', 'mine.toml: '),
        ('vocabulary_size = 500', '', 'vocabulary_size must be given, a int'),
    ],
)
def test_a_scale_of_the_users(tmp_path, old, new, message):
  text = (pathlib.Path(spec.__file__).parent / 'scales/tiny.toml').read_text()
  mine = tmp_path / 'mine.toml'
  mine.write_text(text.replace(old, new))
  with pytest.raises(ValueError, match=message):
    spec.load_scale(str(mine))


def test_a_scale_that_changes_another(tmp_path):
  mine = tmp_path / 'mine.toml'
  mine.write_text(
      "from = 'small'\nseeds = [0, 1]\n[contextualize]\nNUM_STEPS = 1500\n"
  )
  scale, small = spec.load_scale(str(mine)), spec.load_scale('small')
  assert scale.name == 'mine' and scale.seeds == (0, 1)
  assert scale.decoder == small.decoder
  steps = scale.sections['contextualize']
  assert steps == small.sections['contextualize'] | {'NUM_STEPS': 1500}
  others = small.sections | {'contextualize': steps}
  assert scale.sections == others


@pytest.mark.parametrize(
    ['text', 'message'],
    [
        ("from = 'smal'", 'mine.toml: from=smal: one of paper, small, tiny'),
        ('from = 7', 'mine.toml: from=7: one of'),
        ("from = 'small'\nperceiver = 7", 'perceiver is unknown'),
        ("from = 'small'\n[perciever]\nX = 1", 'Did you mean perceiver'),
        ("from = 'small'\nvocabulary_size = 'x'", 'vocabulary_size must be'),
        (
            "from = 'small'\n[contextualize]\nNUM_STEP = 9",
            'no gin file has NUM_STEP. Did you mean NUM_STEPS',
        ),
    ],
)
def test_a_wrong_change_of_a_scale(tmp_path, text, message):
  mine = tmp_path / 'mine.toml'
  mine.write_text(text)
  with pytest.raises(ValueError, match=message):
    spec.load_scale(str(mine))


def test_a_scale_without_a_length_that_titles_tell(scale):
  del scale.sections['contextualize']['HISTORY_LENGTH']
  with pytest.raises(ValueError, match='HISTORY_LENGTH must be given, in'):
    spec.titled(spec.load_tables()['length'], scale)
  spec.titled(spec.load_tables()['favourite'], scale)
