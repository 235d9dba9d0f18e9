"""What several recipes need: checkpoints, averaging, schedules, seeds, logs, arguments."""
