"""Where a job can run, by the name that `--on` takes."""

from launch.backends import backend
from launch.backends import gke
from launch.backends import local
from launch.backends import slurm
from launch.backends import tpu_vm
from launch.backends import xpk

_BACKENDS: dict[str, backend.Backend] = {
    'local': local.Local(),
    'slurm': slurm.Slurm(),
    'tpu-vm': tpu_vm.TpuVm(),
    'gke': gke.Gke(),
    'xpk': xpk.Xpk(),
}


def get(name: str) -> backend.Backend:
  return _BACKENDS[name]
