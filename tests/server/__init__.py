"""The server, over raw sockets."""
