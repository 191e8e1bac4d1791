"""What is the simple backend's own: connections, proxies, authentication."""
