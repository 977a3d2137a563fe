"""What an event is made of: identity, properties, timestamps and ids, and the bytes that go on the wire."""
