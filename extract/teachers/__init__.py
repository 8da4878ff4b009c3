"""The loading families of teachers."""
