"""Plans, schedules and executes an extraction in one process; knows nothing of Ray."""
