"""What tests of several folders share: servers that misbehave, processes, the accounting identity."""
