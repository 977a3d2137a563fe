"""What tests of code that uses Leanbase need."""

from leanbase.testing.transport_contract import TransportContract

__all__ = ["TransportContract"]
