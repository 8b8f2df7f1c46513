"""Tests of the downloader, against a server of its own."""

import dataclasses
import fcntl
import gzip
import hashlib
import http.server
import re
import threading

from data_prep import __main__ as command
from data_prep import download
from data_prep import download_registry
import pytest

DATA = gzip.compress(bytes(range(256)) * 400)


class _Handler(http.server.BaseHTTPRequestHandler):
  """Serves a dict of files, in parts if asked, and breaks off if told."""

  def log_message(self, *args):
    pass

  def do_GET(self):
    server = self.server
    server.requests.append((self.path, dict(self.headers)))
    if self.path in server.redirects:
      self.send_response(302)
      self.send_header('Location', server.redirects[self.path])
      self.end_headers()
      return
    if self.path not in server.files:
      self.send_error(404)
      return
    data = server.files[self.path]
    start = 0
    if self.headers.get('If-Range') == server.etag:
      start = int(re.fullmatch(r'bytes=(\d+)-', self.headers['Range'])[1])
    if start >= len(data):
      self.send_response(416)
      self.send_header('Content-Range', f'bytes */{len(data)}')
      self.send_header('Content-Length', '0')
      self.end_headers()
      return
    self.send_response(206 if start else 200)
    if server.etag:
      self.send_header('ETag', server.etag)
    self.send_header('Content-Length', str(len(data) - start))
    self.end_headers()
    stop = server.breaks.pop(0) if server.breaks else len(data)
    self.wfile.write(data[start : max(stop, start)])


@pytest.fixture
def server(monkeypatch):
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler) as httpd:
    httpd.files, httpd.redirects = {}, {}
    httpd.requests, httpd.breaks = [], []
    httpd.etag = '"one"'
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{httpd.server_port}'
    monkeypatch.setattr(download, '_SCHEMES', (url,))
    monkeypatch.setattr(download, '_PAUSE_SECS', 0)
    for name, source in download_registry.SOURCES.items():
      urls = tuple(f'{url}/{u.rsplit("/", 1)[1]}' for u in source.urls)
      monkeypatch.setitem(
          download_registry.SOURCES,
          name,
          dataclasses.replace(source, urls=urls),
      )
    yield httpd
    httpd.shutdown()


def _names(directory):
  return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize('form', ['{}  ml-1m.zip\n', 'MD5 (ml-1m.zip) = {}\n'])
def test_movielens(form, server, tmp_path, capsys):
  data = b'PK\x03\x04...'
  server.files['/ml-1m.zip'] = data
  md5 = hashlib.md5(data).hexdigest()
  server.files['/ml-1m.zip.md5'] = form.format(md5).encode()
  (path,) = download.fetch('movielens', '1m', directory=tmp_path / 'new')
  assert path == tmp_path / 'new' / 'ml-1m.zip' and path.read_bytes() == data
  assert 'redistributed' in capsys.readouterr().err
  # What is there is not fetched again.
  server.files.clear()
  assert download.fetch('movielens', '1m', directory=path.parent) == [path]
  assert _names(path.parent) == ['ml-1m.zip', 'ml-1m.zip.sha256']


def test_reviews_and_metadata(server, tmp_path, capsys):
  server.files['/Books.jsonl.gz'] = DATA
  server.files['/meta_Books.jsonl.gz'] = DATA
  arguments = ['download', 'amazon_2023', 'Books', f'--directory={tmp_path}']
  assert command.main(arguments) == 0
  captured = capsys.readouterr()
  assert captured.out.split() == [
      str(tmp_path / 'Books.jsonl.gz'), str(tmp_path / 'meta_Books.jsonl.gz')
  ]
  sha256 = hashlib.sha256(DATA).hexdigest()
  assert (tmp_path / 'Books.jsonl.gz.sha256').read_text() == (
      f'{sha256}  Books.jsonl.gz\n'
  )
  assert f'{len(DATA):,} bytes, sha256 {sha256}' in captured.err
  assert 'upstream publishes none' in captured.err
  assert 'without an open licence' in captured.err


def test_goes_on_where_the_line_broke(server, tmp_path):
  server.files['/Books.jsonl.gz'] = server.files['/meta_Books.jsonl.gz'] = DATA
  server.breaks = [100, 150]
  path, _ = download.fetch('amazon_2023', 'Books', directory=tmp_path)
  assert path.read_bytes() == DATA
  ranges = [headers.get('Range') for _, headers in server.requests]
  assert ranges == [None, 'bytes=100-', 'bytes=150-', None]


def test_goes_on_in_another_run(server, tmp_path, monkeypatch):
  server.files['/Books.jsonl.gz'] = server.files['/meta_Books.jsonl.gz'] = DATA
  server.breaks = [100]
  monkeypatch.setattr(download, '_ATTEMPTS', 1)
  with pytest.raises(ValueError, match='after 100 of .* Run again to go on'):
    download.fetch('amazon_2023', 'Books', directory=tmp_path)
  assert not (tmp_path / 'Books.jsonl.gz').exists()
  path, _ = download.fetch('amazon_2023', 'Books', directory=tmp_path)
  assert path.read_bytes() == DATA
  assert server.requests[1][1]['Range'] == 'bytes=100-'
  assert not [name for name in _names(tmp_path) if name.startswith('.')]


@pytest.mark.parametrize('etag', ['"two"', ''])
def test_does_not_join_two_files(etag, server, tmp_path, monkeypatch):
  """The file changed between the runs, or its version is not known."""
  server.files['/Books.jsonl.gz'] = server.files['/meta_Books.jsonl.gz'] = DATA
  server.breaks = [100]
  server.etag = etag and server.etag
  monkeypatch.setattr(download, '_ATTEMPTS', 1)
  with pytest.raises(ValueError):
    download.fetch('amazon_2023', 'Books', directory=tmp_path)
  changed = gzip.compress(b'another' * 999)
  server.files['/Books.jsonl.gz'] = changed
  server.etag = etag
  path, _ = download.fetch('amazon_2023', 'Books', directory=tmp_path)
  assert path.read_bytes() == changed


def test_killed_before_the_rename(server, tmp_path):
  server.files['/Books.jsonl.gz'] = server.files['/meta_Books.jsonl.gz'] = DATA
  (tmp_path / '.Books.jsonl.gz.partial').write_bytes(DATA)
  (tmp_path / '.Books.jsonl.gz.version').write_text(server.etag)
  path, _ = download.fetch('amazon_2023', 'Books', directory=tmp_path)
  assert path.read_bytes() == DATA and len(server.requests) == 2


def test_damage(server, tmp_path, monkeypatch):
  server.files['/Books.jsonl.gz'] = b'<html>moved</html>'
  with pytest.raises(ValueError, match="begins with b'<htm', as no gz does"):
    download.fetch('amazon_2023', 'Books', directory=tmp_path)
  server.files['/ml-1m.zip'] = b'PK\x03\x04'
  server.files['/ml-1m.zip.md5'] = b'0' * 32
  with pytest.raises(ValueError, match=f'MD5 .* says {"0" * 32}; nothing is k'):
    download.fetch('movielens', '1m', directory=tmp_path)
  server.files['/ml-1m.zip.md5'] = b'<html>moved</html>'
  with pytest.raises(ValueError, match='holds no MD5'):
    download.fetch('movielens', '1m', directory=tmp_path)
  monkeypatch.setitem(
      download_registry.KNOWN,
      'Books.jsonl.gz',
      download_registry.Known(num_bytes=5, sha256='0'),
  )
  server.files['/Books.jsonl.gz'] = DATA
  with pytest.raises(ValueError, match='known are 5 bytes and 0; nothing is'):
    download.fetch('amazon_2023', 'Books', directory=tmp_path)
  assert not _names(tmp_path)


def test_only_latest_small_may_lack_a_checksum(server, tmp_path):
  for size in ('1m', 'latest-small'):
    server.files[f'/ml-{size}.zip'] = b'PK\x03\x04'
  with pytest.raises(ValueError, match='404'):
    download.fetch('movielens', '1m', directory=tmp_path)
  download.fetch('movielens', 'latest-small', directory=tmp_path)
  assert 'ml-latest-small.zip' in _names(tmp_path)


def test_https_only(server, tmp_path):
  server.redirects['/Books.jsonl.gz'] = 'http://127.0.0.1.example/x'
  with pytest.raises(ValueError, match='example/x is not fetched: it is no HT'):
    download.fetch('amazon_2023', 'Books', directory=tmp_path)
  assert not _names(tmp_path)


def test_registry_is_https():
  for name, source in download_registry.SOURCES.items():
    for url in source.urls:
      assert url.startswith('https://') and '{part}' in url, name
  urls = [
      url.format(part=part)
      for source in download_registry.SOURCES.values()
      for url in source.urls
      for part in ('All_Beauty', 'Vermont')
  ]
  for end in download_registry.KNOWN:
    assert [url for url in urls if url.endswith(end)], end


def test_unknown_part_and_second_run(server, tmp_path):
  with pytest.raises(ValueError, match="part '../x' of movielens must be 100k"):
    download.fetch('movielens', '../x', directory=tmp_path)
  with pytest.raises(ValueError, match='404: .*A part of amazon_2023 is a cat'):
    download.fetch('amazon_2023', 'Boks', directory=tmp_path)
  with (tmp_path / '.Books.jsonl.gz.partial').open('w') as handle:
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match='is being fetched by another run'):
      download.fetch('amazon_2023', 'Books', directory=tmp_path)


def test_no_network_says_what_to_do(tmp_path, monkeypatch):
  url = 'http://127.0.0.1:9'  # Nothing listens there.
  monkeypatch.setattr(download, '_SCHEMES', (url,))
  monkeypatch.setattr(download, '_PAUSE_SECS', 0)
  source = download_registry.SOURCES['movielens']
  monkeypatch.setitem(
      download_registry.SOURCES,
      'movielens',
      dataclasses.replace(source, urls=(url + '/ml-{part}.zip',)),
  )
  with pytest.raises(ValueError) as error:
    download.fetch('movielens', 'latest-small', directory=tmp_path)
  for told in (f'{url}/ml-latest-small.zip', str(tmp_path), 'by hand'):
    assert told in str(error.value)
  assert not _names(tmp_path)
