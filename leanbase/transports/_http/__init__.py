"""HTTP within a deadline: retries, a circuit breaker, kept-alive connections, sockets that end in time."""
