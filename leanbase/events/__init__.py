"""Defines the content of an event: identity, properties, timestamp and id, and the bytes that are sent."""
