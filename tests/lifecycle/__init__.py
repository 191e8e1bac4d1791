"""How fetches and clients end: cancelled, closed, forked, collected, failed by a callback."""
