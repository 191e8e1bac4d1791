"""One suite, every backend: real sockets, scripted peers, exact bytes."""
