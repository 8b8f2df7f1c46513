"""Small files of reviews and events that name people."""

import gzip
import json
import pathlib

USER = 'AKQ7RAWUSERID%03d'
_REVIEWER = 'Wilhelmina Rawname'


def amazon(folder: pathlib.Path) -> list[str]:
  """Writes the files; returns the command and flags that read them."""
  rows = [
      {
          'reviewerID': USER % (i % 4), 'asin': f'B{i % 3}', 'overall': 5.0,
          'reviewerName': _REVIEWER, 'unixReviewTime': 1000 + i,
          'summary': f'sum {i}', 'reviewText': f'text {i}',
      }
      for i in range(40)
  ]
  rows[7]['overall'] = 0.0
  rows[8]['unixReviewTime'] = USER % 8
  with gzip.open(folder / 'reviews_X.json.gz', 'wt') as handle:
    handle.writelines(json.dumps(row) + '\n' for row in rows)
    handle.write(f'{{"reviewerID": "{USER % 1}", broken\n')
    handle.write(repr(rows[0]) + '\n')
  return ['amazon_reviews', f'--input={folder}', '--name=x']


def google(folder: pathlib.Path) -> list[str]:
  rows = [
      {
          'user_id': USER % (i % 4), 'name': _REVIEWER, 'rating': 1 + i % 5,
          'time': (1000 + i) * 1000, 'text': None, 'gmap_id': f'0x{i % 3}',
      }
      for i in range(42)
  ]
  rows[7]['rating'] = rows[8]['time'] = rows[9]['user_id'] = None
  with (folder / 'review-X.json').open('w') as handle:
    handle.writelines(json.dumps(row) + '\n' for row in rows)
  return ['google_local', f'--input={folder}', '--name=x']


def table(folder: pathlib.Path) -> list[str]:
  rows = [f'{USER % (i % 4)},I{i % 3},{1000 + i}\n' for i in range(42)]
  rows[7:10] = [
      f'{USER % 1},,5\n', f'{USER % 2},I1,{USER % 3}\n', f'{USER % 1}\n'
  ]
  (folder / 'x.csv').write_text('u,i,t\n' + ''.join(rows))
  (folder / 'x.toml').write_text(
      'name = "x"\n[events]\nfiles = ["x.csv"]\nuser = "u"\nitem = "i"\n'
      'time = "t"\n'
  )
  return ['table', f'--description={folder / "x.toml"}']


SOURCES = (amazon, google, table)
