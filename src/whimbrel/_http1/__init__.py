"""HTTP/1.1 without I/O (RFC 9112): bytes in, events out; the same core for clients and servers.

`grammar` says what a line may look like, `framing` where a body ends, `state` what may follow what,
`protocol` puts them together. Nothing here knows of sockets, time or the rest of the package.
"""
