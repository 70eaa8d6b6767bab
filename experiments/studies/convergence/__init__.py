"""Every penalty on the task that can be enumerated: where training ends, against where theory says."""
