"""When events leave: delivery scopes, the outbox of a client, and how the options are put together."""
