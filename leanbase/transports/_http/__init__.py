"""HTTP within a deadline: retries, a circuit breaker, kept-alive connections, sockets with a deadline."""
