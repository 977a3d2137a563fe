"""An ingestion server for development: `leanbase local`.

It accepts and refuses the same requests as the real server, returns the reason for a refusal, prints the
events that arrive, and shows them on a page. Beyond loopback addresses a token guards it. `validation` checks
a request, `faults` plays outages, `store` stores events and requests, `server` is the HTTP between them,
`page/` has the files of the page, and `table` formats events for a terminal.
"""
