"""Tests of the downloader, against a server of its own."""

import functools
import hashlib
import http.server
import threading

from data_prep import download
import pytest


class _Handler(http.server.SimpleHTTPRequestHandler):

  def log_message(self, *args):
    pass

  def do_GET(self):
    if self.path == '/short/ml-1m.zip':
      self.send_response(200)
      self.send_header('Content-Length', '1000')
      self.end_headers()
      self.wfile.write(b'x' * 10)
    else:
      super().do_GET()


@pytest.fixture
def server(tmp_path):
  root = tmp_path / 'server'
  (root / 'short').mkdir(parents=True)
  handler = functools.partial(_Handler, directory=str(root))
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield root, f'http://127.0.0.1:{httpd.server_port}'
    httpd.shutdown()


@pytest.fixture
def target(tmp_path):
  directory = tmp_path / 'target'
  directory.mkdir()
  return directory


@pytest.mark.parametrize('form', ['{}  ml-1m.zip\n', 'MD5 (ml-1m.zip) = {}\n'])
def test_fetch(form, server, target, capsys):
  root, url = server
  (root / 'ml-1m.zip').write_bytes(b'data')
  md5 = hashlib.md5(b'data').hexdigest()
  (root / 'ml-1m.zip.md5').write_text(form.format(md5))
  path = download.fetch('1m', directory=target, base_url=url)
  assert path == target / 'ml-1m.zip' and path.read_bytes() == b'data'
  assert 'redistributed' in capsys.readouterr().err
  # What is there is not fetched again.
  path = download.fetch('1m', directory=target, base_url='http://x.invalid')
  assert [p.name for p in target.iterdir()] == ['ml-1m.zip']


def test_damage(server, target):
  root, url = server
  (root / 'ml-1m.zip').write_bytes(b'data')
  (root / 'ml-1m.zip.md5').write_text('0' * 32)
  with pytest.raises(ValueError, match=f'MD5 .* says {"0" * 32}'):
    download.fetch('1m', directory=target, base_url=url)
  (root / 'ml-1m.zip.md5').write_text('<html>moved</html>')
  with pytest.raises(ValueError, match='holds no MD5'):
    download.fetch('1m', directory=target, base_url=url)
  (root / 'short' / 'ml-1m.zip.md5').write_text('0' * 32)
  with pytest.raises(ValueError, match='10 of 1,000 bytes'):
    download.fetch('1m', directory=target, base_url=f'{url}/short')
  assert not list(target.iterdir())


def test_only_latest_small_may_lack_a_checksum(server, target):
  root, url = server
  for size in ('1m', 'latest-small'):
    (root / f'ml-{size}.zip').write_bytes(b'data')
  with pytest.raises(ValueError, match='404'):
    download.fetch('1m', directory=target, base_url=url)
  download.fetch('latest-small', directory=target, base_url=url)
  assert [p.name for p in target.iterdir()] == ['ml-latest-small.zip']


def test_no_network_says_what_to_do(target):
  url = 'http://127.0.0.1:9'  # Nothing listens there.
  with pytest.raises(ValueError) as error:
    download.fetch('20m', directory=target, base_url=url)
  for told in (f'{url}/ml-20m.zip', str(target / 'ml-20m.zip'), '--input'):
    assert told in str(error.value)
  assert not list(target.iterdir())
