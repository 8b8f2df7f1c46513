"""Tests of `python -m launch` with commands that only tell their arguments."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch import __main__ as launch_main
from launch import records

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_COMMAND = '''#!/bin/sh
echo "$0" "$@" >> "$CALLS"
case "$0" in
  */sbatch) echo 4711;;
  */squeue) cat "$ACTIVE";;
esac
'''


@pytest.fixture(name='calls')
def _calls(tmp_path, monkeypatch):
  """A folder with a fake SLURM; returns the file of its calls."""
  (tmp_path / 'bin').mkdir()
  for name in ('sbatch', 'squeue', 'scontrol', 'scancel', 'srun'):
    path = tmp_path / 'bin' / name
    path.write_text(_COMMAND)
    path.chmod(0o755)
  (tmp_path / 'active').touch()
  monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:{os.environ["PATH"]}')
  monkeypatch.setenv('CALLS', str(tmp_path / 'calls'))
  monkeypatch.setenv('ACTIVE', str(tmp_path / 'active'))
  monkeypatch.chdir(tmp_path)
  return tmp_path / 'calls'


def _run(*flags):
  return launch_main.main([
      'run', '--name=a', '--on=slurm', '--workdir=w', '--gin_file=x.gin', *flags
  ])


def test_submit_and_submit_again(calls, capsys):
  assert _run() == 0
  record = records.get('a')
  assert (record.handle, record.spec.submission) == ('4711', 1)
  code = pathlib.Path('runs/launch/a/code', record.spec.code)
  assert (code / 'launch' / 'entry.py').is_file()
  assert '--submission=1' in calls.read_text()
  assert f'PYTHONPATH={code}' in calls.read_text()

  assert _run() == 0
  assert records.get('a').spec.submission == 2
  assert launch_main.main(['resume', 'a']) == 0
  assert '--submission=3' in calls.read_text()

  capsys.readouterr()
  assert _run('--nodes=2') == 2
  error = capsys.readouterr().err
  assert '- "nodes": 1' in error and '+ "nodes": 2' in error
  assert '--new' in error
  assert _run('--nodes=2', '--new') == 0
  assert records.get('a').spec.nodes == 2


def test_a_running_job_is_not_submitted_again(calls, tmp_path, capsys):
  assert _run() == 0
  (tmp_path / 'active').write_text('4711 RUNNING\n')
  assert _run() == 2
  assert 'python -m launch stop a' in capsys.readouterr().err
  assert calls.read_text().count('--submission') == 1


def test_what_is_not_taken_is_not_known(calls, tmp_path, capsys):
  (tmp_path / 'bin' / 'sbatch').write_text('#!/bin/sh\nexit 1\n')
  assert _run() == 1
  assert records.names() == []
  assert launch_main.main([
      'run', '--name=b', '--workdir=w', '--gin_file=x', '--python=no/python'
  ]) == 2
  assert './launch/install' in capsys.readouterr().err
  assert records.names() == []


def test_commands_on_a_job(calls, capsys):
  assert _run() == 0
  logs = pathlib.Path('w/logs/a')
  logs.mkdir(parents=True)
  (logs / 'rank-0003.log').write_text('hello\n')
  (logs.parent.parent / 'launch.jsonl').write_text(
      json.dumps({'job': 'a', 'submission': 1, 'step': 0, 'time': 'noon'})
  )
  capsys.readouterr()
  assert launch_main.main(['logs', 'a', '--rank=3']) == 0
  assert capsys.readouterr().out == 'hello\n'
  assert launch_main.main(['status', 'a']) == 0
  assert 'a on slurm, submission 1: 1 starts, the last at noon; step 0' in (
      capsys.readouterr().out
  )
  assert launch_main.main(['status']) == 0
  assert capsys.readouterr().out == 'a  slurm  w\n'
  assert launch_main.main(['stop', 'a']) == 0
  assert 'scontrol update JobId=4711 Requeue=0' in calls.read_text()
  assert launch_main.main(['stop', 'aa']) == 2
  assert "no job 'aa' in runs/launch; there are: a. Did you mean a?" in (
      capsys.readouterr().err
  )


def test_render_does_nothing(calls, tmp_path, capsys):
  assert _run('--dry_run') == 0
  assert capsys.readouterr().out.startswith('# Submit\nsbatch')
  assert launch_main.main([
      'render', '--name=a', '--on=slurm', '--workdir=w', '--mode=evaluate',
      '--out=plan',
  ]) == 0
  assert (tmp_path / 'plan' / 'exec.sh').is_file()
  assert '    evaluate' in (tmp_path / 'plan' / 'plan.txt').read_text()
  assert not calls.exists()
  assert not pathlib.Path('runs').exists()


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['run', '--name=a'], '--workdir must be given'),
        (['run', 'none.toml'], 'none.toml does not exist'),
        (['doctor', '--on=moon'], '--on=moon: one of local, slurm'),
    ],
)
def test_errors(argv, message, capsys):
  assert launch_main.main(argv) == 2
  assert message in capsys.readouterr().err


def test_doctor(calls, capsys):
  # The fake controller does not answer.
  assert launch_main.main(['doctor', '--on=slurm']) == 2
  out = capsys.readouterr().out
  assert 'ok    sbatch is installed' in out
  assert 'FAIL  the controller answers' in out
  assert 'scontrol ping' in out


def test_local_in_two_terminals(tmp_path):
  """One runs it; the other sees and stops it."""
  (tmp_path / 'path').mkdir()
  (tmp_path / 'path' / 'launch').symlink_to(_ROOT / 'launch')
  (tmp_path / 'path' / 'user_llm').mkdir()
  (tmp_path / 'path' / 'user_llm' / 'main.py').write_text('''
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
print('ready', flush=True)
time.sleep(60)
''')
  environment = {**os.environ, 'PYTHONPATH': str(tmp_path / 'path')}
  base = [sys.executable, '-m', 'launch']
  run = [
      *base, 'run', '--name=a', '--on=local:2', '--workdir=w',
      '--gin_file=x.gin', f'--python={sys.executable}',
  ]

  def other(*argv):
    return subprocess.run(
        argv, cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False,
    )

  first = subprocess.Popen(
      run, cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, text=True,
  )
  try:
    logs = [tmp_path / f'w/logs/a/rank-000{rank}.log' for rank in range(2)]
    end = time.monotonic() + 60
    while not all(p.is_file() and 'ready' in p.read_text() for p in logs):
      assert time.monotonic() < end
      time.sleep(0.1)
    again = other(*run)
    assert again.returncode == 2
    assert 'a is running' in again.stderr
    assert 'user_llm.main train' in other(*base, 'status', 'a').stdout
    assert other(*base, 'stop', 'a').returncode == 0
    _, error = first.communicate(timeout=60)
    assert first.returncode == 42, error
    assert 'preempted after saving' in error
    stopped = other(*base, 'stop', 'a')
    assert stopped.returncode == 2
    assert 'a is not running' in stopped.stderr
  finally:
    if first.poll() is None:
      first.send_signal(signal.SIGKILL)


def test_a_sweep_is_submitted_nowhere(capsys):
  assert launch_main.main(['sweep', 'rates.toml', '--on', 'slurm']) == 2
  assert '--on=slurm: a sweep submits nothing' in capsys.readouterr().err
