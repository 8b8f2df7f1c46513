"""Tests of what a run's time went to, with a clock of the test's own."""

import json
import types

import pytest

from user_llm.runtime import goodput


class _Clock:
  """Wall and monotonic time at once."""

  def __init__(self, monkeypatch):
    self.now = 1000.0
    monkeypatch.setattr(goodput, 'time', types.SimpleNamespace(
        time=lambda: 5e8 + self.now, monotonic=lambda: self.now
    ))


@pytest.fixture(name='clock')
def _clock(monkeypatch):
  return _Clock(monkeypatch)


def _session(clock, workdir, start_step, intervals):
  """A session that starts for 20 s, and is killed after its intervals."""
  start = clock.now
  clock.now += 20
  log = goodput.Log(str(workdir))
  log.session(start_step, start)
  for first, last, secs in intervals:
    clock.now += sum(secs.values())
    log.interval(first, last, secs)
  log.close()


def test_one_session(clock, tmp_path):
  _session(clock, tmp_path, 0, [
      (0, 10, {'steps': 50, 'input_wait': 5}),
      (10, 20, {'steps': 40, 'saving': 3, 'evaluation': 8, 'skipped': 4}),
  ])
  found = goodput.summary(str(tmp_path))
  assert found == {
      'goodput': round(90 / 130, 4), 'sessions': 1, 'start': 20, 'steps': 90,
      'input_wait': 5, 'saving': 3, 'evaluation': 8, 'profiling': 0,
      'skipped': 4, 'lost': 0, 'down': 0,
  }
  assert goodput.describe(found) == (
      'goodput 69 %: 90 s of steps, 20 s start, 5.0 s waiting for input, 3.0 s '
      'saving, 8.0 s evaluation, 4.0 s steps that were skipped'
  )


def test_killed_and_started_again(clock, tmp_path):
  """At step 20 of 25; the steps after it are lost, and so is the half line."""
  _session(clock, tmp_path, 0, [
      (0, 15, {'steps': 60}),
      (15, 25, {'steps': 30, 'input_wait': 10, 'saving': 1}),
  ])
  with (tmp_path / goodput.FILE).open('a') as file:
    file.write('{"event": "interval", "ti')
  clock.now += 100
  _session(clock, tmp_path, 20, [(20, 25, {'steps': 16})])
  found = goodput.summary(str(tmp_path))
  assert found['sessions'] == 2
  assert found['down'] == 100
  assert found['lost'] == 20
  assert found['steps'] == 60 + 15 + 16
  assert found['input_wait'] == 5
  assert found['start'] == 40
  lines = (tmp_path / goodput.FILE).read_text().splitlines()
  assert len(lines) == 6
  assert json.loads(lines[4])['event'] == 'session'


def test_going_back_twice_loses_each_step_once(clock, tmp_path):
  _session(clock, tmp_path, 0, [(0, 10, {'steps': 10})])
  _session(clock, tmp_path, 5, [(5, 10, {'steps': 5}), (10, 20, {'steps': 10})])
  _session(clock, tmp_path, 0, [(0, 20, {'steps': 20})])
  found = goodput.summary(str(tmp_path))
  assert (found['lost'], found['steps']) == (25, 20)
  assert found['sessions'] == 3


def test_who_does_not_write(clock, tmp_path):
  log = goodput.Log(str(tmp_path), is_writer=False)
  log.session(0, clock.now)
  log.close()
  assert not list(tmp_path.iterdir())
