"""The feature store: what the programs that write it and those that read it must agree on."""
