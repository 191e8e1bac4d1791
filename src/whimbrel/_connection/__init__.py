"""The machinery below :mod:`whimbrel.http1connection`: a `Channel` moves a connection's messages.

`deadline` and `output` are its clock and its way out, `heads` what it sends heads by; `server` and
`client` are the two roles. Nothing here imports the public classes: they hand in what is needed.
"""
