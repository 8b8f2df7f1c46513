"""Tests with xpk itself, which needs no cloud for a dry run."""

import shutil
import subprocess
import sys

import pytest
import yaml

from launch import accelerators
from launch import command
from launch import entry
from launch import exit_codes
from launch import spec as spec_lib
from launch.backends import xpk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which('xpk'),
        reason='no xpk: pip install xpk, in an environment of its own',
    ),
]


def _interpreter():
  """Of the environment that xpk is in."""
  with open(shutil.which('xpk'), encoding='utf-8') as script:
    return script.readline().removeprefix('#!').strip() or sys.executable


def test_dry_run(tmp_path):
  args = ('it\'s "a"\nb', '$HOME', '`x`', '{y}', '%z', '☃')
  spec = spec_lib.JobSpec(
      name='job', on='xpk', gin_file=('x.gin',), workdir='/w/a', cluster='c',
      project='p', zone='us-east5-b', tpu='v6e-16', slices=2, args=args,
      image='registry/image@sha256:' + '0' * 64, volume={'/w': 'storage:w'},
      priority='high', spot=True,
  )
  argv = xpk.Xpk().render(spec).steps[-1].argv
  path = tmp_path / 'manifest.yaml'
  # Storages are asked for from the cluster, which is not here.
  argv = [word for word in argv if not word.startswith('--storage')]
  result = subprocess.run(
      [*argv, '--dry-run', f'--output-manifest-file={path}'],
      capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  # Its code is 0 for broken YAML too.
  tree = yaml.safe_load(path.read_text(encoding='utf-8'))
  assert tree['spec']['failurePolicy']['maxRestarts'] == 1000
  (replicated,) = tree['spec']['replicatedJobs']
  assert replicated['replicas'] == 2
  inner = replicated['template']['spec']
  assert inner['completions'] == accelerators.tpus()['v6e-16'].hosts
  pod = inner['template']['spec']
  (container,) = pod['containers']
  assert container['name'] == xpk.Xpk.container
  assert pod['terminationGracePeriodSeconds'] == 120
  (line,) = [
      line for line in container['command'][-1].splitlines()
      if 'launch.entry' in line
  ]
  word = line.split('launch.entry ')[1].split(')')[0]
  _, main_args = entry._parse(command.unpack(word))
  assert tuple(main_args) == command.main_args(spec)
  (rule,) = inner['podFailurePolicy']['rules']
  retried = set(rule['onExitCodes']['values'])
  # xpk adds 127, a command that is not found.
  assert retried - {127} == set(exit_codes.RETRIED)


def test_accelerators_are_those_of_xpk():
  code = '''
from xpk.core import system_characteristics as s
for name, row in s.UserFacingNameToSystemCharacteristics.items():
  print(name, row.topology, row.vms_per_slice, row.gke_accelerator,
        row.gce_machine_type, row.chips_per_vm)
'''
  printed = subprocess.run(
      [_interpreter(), '-c', code], capture_output=True, text=True, check=True
  ).stdout
  theirs = {line.split()[0]: line.split()[1:] for line in printed.splitlines()}
  checked = 0
  for name, ours in accelerators.tpus().items():
    if name in theirs:
      checked += 1
      assert theirs[name] == [
          ours.topology, str(ours.hosts), ours.gke, ours.machine,
          str(ours.chips_per_host),
      ], name
  assert checked >= 30
  for name, ours in accelerators.gpus().items():
    assert theirs[name][2:] == [ours.gke, ours.machine, str(ours.chips)], name
