"""Makes what a dataset needs on disk: a file that describes it, the layout that its entry reads, drawn slides."""
