"""Whole trainings of the peers, from the data to the test accuracy, for `benchmarks.time_to_accuracy`."""
