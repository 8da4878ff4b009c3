"""The six evaluation tasks, as pure functions of arrays: nothing here reads a file or runs an encoder."""
