"""An ingestion server for development: `leanbase local`.

It accepts and refuses the same requests as the real server, returns the reason for a refusal, prints the
events that arrive, and shows them on a page. If it listens beyond loopback, every URL needs a token.

`validation` checks a request, `faults` simulates outages, `store` stores events and requests, `server` serves
HTTP, `page/` has the files of the page, and `table` formats events for a terminal.
"""
