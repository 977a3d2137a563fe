"""Shared by tests of several folders: servers with faults, processes, transports."""
