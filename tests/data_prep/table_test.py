"""Tests of bring-your-own tables, from the description to the Parquet."""

import datetime
import gzip
import json
import textwrap

from data_prep import privacy
from data_prep import raw as raw_lib
from data_prep import table
from data_prep import table_description
from data_prep import table_files
import polars as pl
import pytest

KEY = privacy.UserKey(b'0123456789abcdef' * 2)
CSV = """\
visitor,article,read_at,stars,device,Time on page,comment,unused
u1,7,1472688000123,4.5,phone,12.5,"Good, ""really"" good",x
u1,8,1472688001999,3,,, ,x
u2,07,1472688002000,5,desk,3,"two
lines",x
"""
ARTICLES = (
    {'id': 7, 'headline': 'First\n one', 'topics': ['A|B', 'C ', 'C', '']},
    {'id': '07', 'headline': None, 'topics': 'Politics; Sports;'},
    {'id': 7, 'headline': 'Again'},
)


def _shown_description():
  _, shown = table_description.__doc__.split('\n\n', 1)
  return textwrap.dedent(shown[: shown.index('\nCSV')])


@pytest.fixture
def folder(tmp_path):
  """The description that the documentation shows, and what fits it."""
  folder = tmp_path / 'mine'
  folder.mkdir()
  (folder / 'reads.toml').write_text(_shown_description())
  (folder / 'reads-1.csv').write_text(CSV)
  with (folder / 'articles.jsonl').open('w') as handle:
    handle.writelines(json.dumps(row) + '\n' for row in ARTICLES)
  return folder


def _read(folder, text=None, fraction=0.4, encoding='utf-8'):
  if text is not None:
    (folder / 'reads.toml').write_text(text, encoding)
  scratch = folder / f'scratch{len(list(folder.iterdir()))}'
  scratch.mkdir()
  raw = table.read(
      description=str(folder / 'reads.toml'),
      scratch=scratch,
      user_key=KEY,
      max_reject_fraction=fraction,
  )
  events = pl.read_parquet(raw.events / '*.parquet').sort('seq')
  return raw, events, pl.read_parquet(raw.items)


def test_the_shown_description(folder):
  raw, events, items = _read(folder)
  assert (raw.name, raw.item_noun) == ('reads', 'article')
  assert (raw.label_name, raw.texts) == ('category', ('comment',))
  assert raw.modalities == (
      raw_lib.RawModality(name='device'),
      raw_lib.RawModality(name='seconds', num_buckets=8),
  )
  assert events.to_dicts() == [
      {
          'seq': 2, 'user': KEY.hash('u1'), 'item': '7',
          'timestamp': 1472688000_123000, 'rating': 4.5, 'device': 'phone',
          'seconds': 12.5, 'comment': 'Good, "really" good',
      },
      {
          'seq': 3, 'user': KEY.hash('u1'), 'item': '8',
          'timestamp': 1472688001_999000, 'rating': 3.0, 'device': '',
          'seconds': None, 'comment': '',
      },
      {
          # The line that the row ends in.
          'seq': 5, 'user': KEY.hash('u2'), 'item': '07',
          'timestamp': 1472688002_000000, 'rating': 5.0, 'device': 'desk',
          'seconds': 3.0, 'comment': 'two\nlines',
      },
  ]
  assert events.schema['rating'] == events.schema['seconds'] == pl.Float32
  assert items.rows() == [
      ('07', '07', 'Politics|Sports'), ('7', 'First one', 'A/B|C')
  ]
  assert raw.rejects.counts('items') == {'item described before': 1}
  assert (raw.num_event_rows, raw.num_item_rows) == (3, 3)
  assert raw.sources['reads-1.csv']['bytes'] == len(CSV)


_MINIMAL = """
name = "mine"
[events]
files = ["{file}"]
user = "u"
item = "i"
time = "t"
time_unit = "{unit}"
"""
_TIME = datetime.datetime(2020, 5, 17, 12, 30, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    'unit, cell, micros',
    [
        ('s', '1589718601', 0),
        ('s', ' 1589718601.75 ', 750_000),
        ('ms', '1589718601999', 999_000),
        ('ms', '1589718601999.5', 999_500),
        ('us', '1589718601999999', 999_999),
        ('ns', '1589718601999999999', 999_999),
        ('%Y-%m-%d %H:%M:%S', '2020-05-17 12:30:01', 0),
        ('%Y-%m-%d %H:%M:%S%.f', '2020-05-17 12:30:01.25', 250_000),
        ('%Y-%m-%dT%H:%M:%S%z', '2020-05-17T14:30:01+02:00', 0),
    ],
)
@pytest.mark.parametrize('suffix', ['csv', 'tsv', 'csv.gz', 'jsonl'])
def test_times_and_formats(unit, cell, micros, suffix, folder):
  delimiter = '\t' if suffix == 'tsv' else ','
  text = f'u,i,t\na,x,{cell}\n'.replace(',', delimiter)
  if suffix == 'jsonl':
    text = json.dumps({'u': 'a', 'i': 'x', 't': cell}) + '\n'
  opened = gzip.open if suffix.endswith('gz') else open
  with opened(folder / f'x.{suffix}', 'wt') as handle:
    handle.write(text)
  description = _MINIMAL.format(file=f'x.{suffix}', unit=unit)
  if suffix == 'tsv':
    description += 'delimiter = "\\t"'
  raw, events, items = _read(folder, description)
  want = int(_TIME.timestamp()) * raw.ticks_per_sec + micros
  assert events['timestamp'].to_list() == [want]
  assert raw.label_name is None and not len(items)


@pytest.mark.parametrize(
    'time, micros',
    [
        (pl.Series([_TIME]), 0),
        (pl.Series([_TIME]).dt.replace_time_zone(None), 0),
        (
            pl.Series([1589718601_000000_999], dtype=pl.Datetime('ns')), 0
        ),
        (pl.Series([1589718601_250], dtype=pl.Datetime('ms')), 250_000),
        (pl.Series([1589718601], dtype=pl.Int32), 0),
        (pl.Series([1589718601.75]), 750_000),
    ],
)
def test_parquet(time, micros, folder):
  frame = pl.DataFrame(
      {'u': [11], 'i': ['x'], 't': time, 'tags': [['b', 'a|c', None]], 'n': [3]}
  )
  frame.write_parquet(folder / 'x.parquet')
  frame.drop('t').write_parquet(folder / 'y.parquet')
  raw, events, items = _read(
      folder,
      _MINIMAL.format(file='x.parquet', unit='s')
      + '[events.features.tags]\nkind = "category"\n'
      + '[events.features.n]\nkind = "number"\n'
      + '[items]\nfiles = ["y.parquet"]\nitem = "i"\ntitle = "i"\n'
      + 'labels = "tags"\nlabel_name = "genre"\n',
  )
  assert events.drop('seq').rows() == [
      (KEY.hash('11'), 'x', 1589718601_000000 + micros, 'b, a|c', 3.0)
  ]
  assert items.rows() == [('x', 'x', 'b|a/c')] and raw.label_name == 'genre'


@pytest.mark.parametrize(
    'unit, cells',
    [
        # What would be a good time if it went round 64 bits, too.
        ('s', ['4102444800', '-1', '-0.5', '18446745662', '1e300', 'nan']),
        ('ms', ['4102444800000', '-1', '18446745662428170', 'inf']),
        ('ns', ['4102444800000000000', '-1', '18446745662428170000']),
        ('%Y-%m-%d', ['2100-01-01', '1969-12-31']),
    ],
)
def test_times_that_are_none(unit, cells, folder):
  rows = ''.join(f'a,x,{cell}\n' for cell in [*cells, ''])
  (folder / 'x.csv').write_text('u,i,t\n' + rows)
  description = _MINIMAL.format(file='x.csv', unit=unit)
  raw, events, _ = _read(folder, description, fraction=1)
  assert not len(events)
  with pytest.raises(ValueError, match=f'time of time_unit = "{unit}" before'):
    _read(folder, description)
  assert raw.num_event_rows == len(cells) + 1


def test_bad_rows(folder):
  (folder / 'x.csv').write_bytes(
      b'u,i,t,n\n'
      b'a,x,1,1\n'
      b' ,x,1,1\n'
      b'a,,1,1\n'
      b'a,x,soon,1\n'
      b'a,x,-1,1\n'
      b'a,x,1589718601000,1\n'
      b'a,x,1,many\n'
      b'a,x,1,inf\n'
      b'a,x,1\n'
      b'caf\xe9,x,1,1\n'
      b'a\0,x,1,1\n'
      b'a,"x"y,1,1\n'
      b'\n'
      b'a,x,2,\n'
      b'a,"x,2,1\n'
  )
  raw, events, _ = _read(
      folder,
      _MINIMAL.format(file='x.csv', unit='s')
      + '[events.features.n]\nkind = "number"\n',
      fraction=1,
  )
  assert events['seq'].to_list() == [2, 15]
  assert events['n'].to_list() == [1, None]
  assert [(r['line'], r['reason']) for r in raw.rejects.shown()] == [
      (3, "no user in 'u'"),
      (4, "no item in 'i'"),
      (5, "no time of time_unit = \"s\" in 't'"),
      (6, "time of time_unit = \"s\" before 1970 or after 2099 in 't'"),
      (7, "time of time_unit = \"s\" before 1970 or after 2099 in 't'"),
      (8, "no number in 'n'"),
      (9, "no number in 'n'"),
      (10, 'wrong field count'),
      (11, 'not UTF-8'),
      (12, 'NUL byte'),
      (13, "broken CSV: ',' expected after '\"'"),
      (16, 'broken CSV: unexpected end of data'),
  ]
  assert raw.num_event_rows == 14
  with pytest.raises(ValueError, match='x.csv:3: no user') as error:
    _read(folder, fraction=0.1)
  assert str(error.value).endswith(
      'Mend the file, set time_unit in [events] or raise '
      '--max_reject_fraction.'
  )


def test_a_file_that_is_not_utf_8(folder):
  (folder / 'x.csv').write_bytes(b'u,i,t\n' + b'caf\xe9,x,1\n' * 7)
  match = r'more: not UTF-8. Mend the file, convert it \(`iconv -f latin1 -t'
  with pytest.raises(ValueError, match=match):
    _read(folder, _MINIMAL.format(file='x.csv', unit='s'))


@pytest.mark.parametrize(
    'opens, closes, reason',
    [
        ('"x', 'x"y', "broken CSV: ',' expected after '\"'"),
        ('"x', 'x",y', 'wrong field count'),
        ('"x', 'x"', 'broken CSV: row of more than 1,000 lines'),
        ('"x', 'x', 'broken CSV: unexpected end of data'),
    ],
)
def test_a_quote_that_is_not_closed(opens, closes, reason, folder):
  """The lines that it swallows are rejects, each of them."""
  lines = ['u,t,i', *(f'a,{second},x' for second in range(3000))]
  lines[1001], lines[2500] = f'a,1000,{opens}', f'a,2499,{closes}'
  (folder / 'x.csv').write_text('\n'.join(lines) + '\n')
  description = _MINIMAL.format(file='x.csv', unit='s')
  with pytest.raises(ValueError, match='x.csv: [12],.* of 3,000 rows are bad'):
    _read(folder, description)
  raw, events, _ = _read(folder, description, fraction=1)
  swallowed = 1500 if closes != 'x' else 2000
  assert raw.rejects.counts('events') == {reason: swallowed}
  assert next(raw.rejects.shown())['line'] == 1002
  assert raw.num_event_rows == len(events) + swallowed == 3000
  raw, events, _ = _read(folder, description + 'quoting = false', fraction=1)
  assert events['item'][1000] == '"x'
  assert len(events) == 3000 - (closes == 'x",y')


@pytest.mark.parametrize(
    'old, new, message',
    [
        ('user = "visitor"', 'usr = "visitor"', 'unknown field `usr` - at `$'),
        (
            'user = "visitor"',
            'user = "v"',
            "reads-1.csv has no column 'v', which is user in the description; "
            "it has 'visitor', 'article'",
        ),
        ('user = "visitor"', '', 'missing required field `user`'),
        ('"ms"', '"msec"', 'time_unit = "msec" in [events] is none of s, ms'),
        (
            '"category"\n[',
            '"cat"\n[',
            "'cat' - at `$.events.features.device.kind` (must be one of "
            'category, number, text)',
        ),
        (
            'label_name = "category"',
            'label_name = "topic"',
            "'topic' - at `$.items.label_name` (must be one of category, genre",
        ),
        ('buckets = 8', 'buckets = 1', '`$.events.features.seconds.buckets`'),
        ('.device]', '.rating]', '[events.features.rating] has a name that is'),
        (
            '.device]', '.label]',
            '[events.features.label] has a name that is taken; choose another '
            'and say column = "label" there',
        ),
        ('.device]', '.target_x]', '[events.features.target_x] has a name'),
        (
            '.device]',
            '.Device]',
            "regex '^[a-z][a-z0-9_]*$' - at `key` in `$.events.features` (must "
            'be lower case letters, digits and _, a letter first)',
        ),
        ('"Time on page"', '"time"', "'time', which is features.seconds in"),
        ('reads-*.csv', 'x-*.csv', "no file beside it matches 'x-*.csv' of"),
        ('"reads-*.csv"', '"reads-1.csv", "*.csv"', 'reads-1.csv is twice'),
        ('articles.jsonl', 'reads.toml', 'reads.toml: its format is unknown'),
        ('name = "reads"', 'name = reads', 'reads.toml is no TOML: Invalid'),
    ],
)
def test_messages_name_the_key_and_the_mend(old, new, message, folder):
  text = _shown_description()
  assert old in text
  with pytest.raises(ValueError) as error:
    _read(folder, text.replace(old, new))
  assert message in str(error.value)


def test_another_delimiter(folder):
  (folder / 'x.csv').write_text('u;i;t\na;x;1\n')
  with pytest.raises(ValueError, match="it has 'u;i;t'. Set delimiter = \";\""):
    _read(folder, _MINIMAL.format(file='x.csv', unit='s'))


@pytest.mark.parametrize(
    'column, cells, told',
    [
        ('t', pl.Series([_TIME.time()]), 'dtype `time`'),
        ('t', pl.Series([datetime.timedelta(1)]), 'dtype `duration'),
        ('i', pl.Series([[1, 2]], dtype=pl.Array(pl.Int64, 2)), 'Array type'),
        ('i', pl.Series([b'\xff']), 'invalid utf8'),
    ],
)
def test_parquet_of_types_that_do_not_fit(column, cells, told, folder):
  frame = pl.DataFrame({'u': ['a'], 'i': ['x'], 't': [1]})
  frame.with_columns(cells.alias(column)).write_parquet(folder / 'x.parquet')
  with pytest.raises(ValueError) as error:
    _read(folder, _MINIMAL.format(file='x.parquet', unit='s'))
  assert f"x.parquet: the column '{column}' has a type" in str(error.value)
  assert told in str(error.value)


def test_broken_files(folder):
  frame = pl.DataFrame({'u': range(5000), 'i': range(5000), 't': range(5000)})
  frame.write_parquet(folder / 'x.parquet')
  data = bytearray((folder / 'x.parquet').read_bytes())
  data[4:60] = bytes(56)  # Of the first page; the end tells what there is.
  (folder / 'x.parquet').write_bytes(data)
  with pytest.raises(ValueError, match='x.parquet is damaged, or of'):
    _read(folder, _MINIMAL.format(file='x.parquet', unit='s'))
  (folder / 'x.parquet').write_bytes(b'PAR1 and then no more')
  with pytest.raises(ValueError, match='x.parquet is no whole Parquet file'):
    _read(folder, _MINIMAL.format(file='x.parquet', unit='s'))
  packed = gzip.compress(b'u,i,t\n' + b'a,x,1\n' * 9999)
  (folder / 'x.csv.gz').write_bytes(packed[:50])
  with pytest.raises(ValueError, match='x.csv.gz:[0-9]+: the gzip breaks off'):
    _read(folder, _MINIMAL.format(file='x.csv.gz', unit='s'))
  rows = ''.join(f'{{"u": 1, "i": {i}, "t": 1}}\n' for i in range(9999))
  packed = gzip.compress(rows.encode())
  (folder / 'x.jsonl.gz').write_bytes(packed[: len(packed) // 2])
  match = 'x.jsonl.gz:[0-9]{3,}: the gzip breaks off or is damaged here; make'
  with pytest.raises(ValueError, match=match):
    _read(folder, _MINIMAL.format(file='x.jsonl.gz', unit='s'))
  with pytest.raises(ValueError, match='no.toml is no file'):
    table_description.load(folder / 'no.toml')


def test_byte_order_marks(folder):
  text = _MINIMAL.format(file='x.*', unit='s')
  (folder / 'x.csv').write_text('u,i,t\na,x,1\n', 'utf-8-sig')
  (folder / 'x.jsonl').write_text('{"u": 1, "i": "y", "t": 2}', 'utf-8-sig')
  raw, events, _ = _read(folder, text, encoding='utf-8-sig')
  assert raw.name == 'mine' and events['item'].to_list() == ['x', 'y']


def test_blocks(folder, monkeypatch):
  """The parts of a long table join to the same events."""
  monkeypatch.setattr(table_files, '_BLOCK_ROWS', 2)
  pl.DataFrame(
      {'u': list('abcde'), 'i': list('vwxyz'), 't': range(5)}
  ).write_parquet(folder / 'x.parquet')
  pl.read_parquet(folder / 'x.parquet').write_csv(folder / 'x.csv')
  for suffix, first in (('parquet', 1), ('csv', 2)):
    _, events, _ = _read(folder, _MINIMAL.format(file=f'x.{suffix}', unit='s'))
    assert events['item'].to_list() == list('vwxyz')
    assert events['seq'].to_list() == list(range(first, first + 5))
