"""Many trainings of one gin config, by a small file; see `command`."""
