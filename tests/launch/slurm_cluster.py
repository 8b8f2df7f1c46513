"""A one-node SLURM cluster of Debian's packages, for as long as a test runs."""

import contextlib
from collections.abc import Iterator
import os
import pathlib
import shutil
import socket
import subprocess
import time

PROGRAMS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'srun', 'scontrol')
_CONF = '''
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=1:00:00 State=UP
'''


def missing() -> str:
  """Why no cluster can be started here; empty if one can."""
  path = os.pathsep.join([os.environ['PATH'], '/usr/sbin', '/sbin'])
  absent = [name for name in PROGRAMS if not shutil.which(name, path=path)]
  if absent:
    return f'no {", ".join(absent)}: apt-get install slurm-wlm munge'
  return '' if os.getuid() == 0 else 'only root can start slurmd'


@contextlib.contextmanager
def running(folder: pathlib.Path) -> Iterator[dict[str, str]]:
  """Starts the daemons; gives the environment of the cluster's commands."""
  for name in ('state', 'spool'):
    (folder / name).mkdir(parents=True)
  conf = folder / 'slurm.conf'
  conf.write_text(
      _CONF.format(
          folder=folder,
          host=socket.gethostname(),
          cpus=max(os.cpu_count(), 2),
          ctld_port=_free_port(),
          slurmd_port=_free_port(),
      )
  )
  path = os.pathsep.join([os.environ['PATH'], '/usr/sbin', '/sbin'])
  environment = {**os.environ, 'SLURM_CONF': str(conf), 'PATH': path}
  key = folder / 'munge.key'
  key.write_bytes(os.urandom(128))
  key.chmod(0o400)
  folder.chmod(0o755)  # munged refuses a socket that others cannot reach.
  commands = (
      (
          'munged', '--foreground', '--force', f'--key-file={key}',
          f'--socket={folder}/munge.socket', f'--pid-file={folder}/munge.pid',
          f'--log-file={folder}/munge.log', f'--seed-file={folder}/munge.seed',
      ),
      ('slurmctld', '-D', '-f', str(conf)),
      ('slurmd', '-D', '-f', str(conf)),
  )
  daemons = []
  try:
    for command in commands:
      log = (folder / f'{command[0]}.out').open('wb')
      daemons.append(
          subprocess.Popen(command, env=environment, stdout=log, stderr=log)
      )
    _wait_until_idle(environment, folder)
    yield environment
  finally:
    for daemon in reversed(daemons):
      daemon.terminate()
    for daemon in daemons:
      daemon.wait(30)


def _wait_until_idle(environment: dict[str, str], folder: pathlib.Path) -> None:
  for _ in range(300):
    found = subprocess.run(
        ['sinfo', '--noheader', '--format=%T'], env=environment,
        capture_output=True, text=True, check=False,
    )
    if found.stdout.strip() == 'idle':
      return
    time.sleep(0.1)
  logs = ''.join(p.read_text() for p in folder.glob('*.log'))
  raise RuntimeError(f'The cluster did not start: {found}\n{logs[-3000:]}')


def _free_port() -> int:
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return found.getsockname()[1]
