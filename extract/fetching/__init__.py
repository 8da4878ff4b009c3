"""Gets teachers' files from where their authors publish them, pinned to what was fetched first."""
