"""Starts jobs anywhere: this machine, SLURM, Cloud TPU, GKE. See README.md."""
