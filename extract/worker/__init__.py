"""Does ranges in one process, as a pipeline of stages on threads; knows nothing of a run, its queue, or Ray."""
