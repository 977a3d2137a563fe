"""The programs of `examples/`, as a user runs them."""
