"""The simple backend: names, connections, TLS, proxies, the pool and transfers, in Python alone."""
