"""Decides when events leave: delivery scopes, the outbox of a client, and the creation of transports."""
