"""An ingestion server for development: `leanbase local`.

It accepts and refuses the same requests as the real server, returns the reason for a refusal, and prints the
events that arrive. It listens only on loopback addresses. `validation` checks a request, `store` stores its
events, `server` is the HTTP between them, and `table` formats events for people.
"""
