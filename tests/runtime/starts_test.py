"""A start counts for the launcher once all processes have met."""

import json

import pytest

from user_llm import main
from user_llm.runtime import distributed
from user_llm.runtime import starts
from user_llm.runtime import watchdog


@pytest.mark.parametrize('have_met', [True, False])
def test_counts_when_all_have_met(tmp_path, monkeypatch, have_met):
  """What the launcher counts against a job that gets nowhere."""
  path = tmp_path / 'w' / 'launch.jsonl'
  monkeypatch.setenv(starts.FILE, str(path))
  monkeypatch.setenv(starts.LINE, json.dumps({'step': 7}))

  def meet():
    if not have_met:
      raise SystemExit(watchdog.EXIT_CODE)  # It has waited too long.
    return True

  def run(*unused):
    assert path.exists()  # Whatever fails from here on counts.
    raise ValueError('a mistake')

  monkeypatch.setattr(distributed, 'initialize', meet)
  monkeypatch.setattr(main, '_run', run)
  argv = ['train', '--gin_file=x.gin', f'--workdir={tmp_path / "w"}']
  if have_met:
    assert main.main(argv) == 2
    assert json.loads(path.read_text()) == {'step': 7}
    starts.note()  # Only once.
    assert len(path.read_text().splitlines()) == 1
  else:
    with pytest.raises(SystemExit):
      main.main(argv)
    assert not path.exists()


def test_without_a_launcher():
  starts.note({})
