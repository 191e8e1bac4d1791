"""What may follow what: the states of one direction of a connection, as a table.

Rules:

1. Everything that decides whether a message part may come now stands in this table.
2. It does not know which role we are playing: both directions of both roles go by it.
3. A pair that is not in the table is an error: the peer's where it receives, ours where it sends.
"""

from __future__ import annotations

from typing import Final

# States.
HEAD: Final = "HEAD"
"""A start line and header block are to come."""
BODY: Final = "BODY"
DONE: Final = "DONE"
"""The message is whole; the next begins with `Protocol.next_message`."""
SWITCHED: Final = "SWITCHED"
"""The connection speaks another protocol now (CONNECT, 101)."""
CLOSED: Final = "CLOSED"
ERROR: Final = "ERROR"

# What happens.
ON_INTERIM: Final = "interim"
ON_HEAD: Final = "head"
ON_DATA: Final = "data"
ON_END: Final = "end"
ON_NEXT: Final = "next"
ON_SWITCH: Final = "switch"
ON_CLOSE: Final = "close"

TRANSITIONS: Final[dict[str, dict[str, str]]] = {
    # RFC 9110 section 15.2: any number of interim responses before the final one.
    HEAD: {ON_INTERIM: HEAD, ON_HEAD: BODY, ON_SWITCH: SWITCHED, ON_CLOSE: CLOSED},
    BODY: {ON_DATA: BODY, ON_END: DONE},
    # RFC 9112 section 9.3: persistence.
    DONE: {ON_NEXT: HEAD, ON_CLOSE: CLOSED},
    SWITCHED: {},
    CLOSED: {},
    ERROR: {},
}
