"""What other libraries and the standard library call, made to capture; each imported by name."""
