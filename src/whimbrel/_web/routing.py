"""Routes: which handler class a request goes to, and what it is given."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

if TYPE_CHECKING:
    from whimbrel.web import RequestHandler

log = logging.getLogger("whimbrel.application")


class Target(NamedTuple):
    """Where a request goes."""

    handler_class: type[RequestHandler]
    kwargs: dict[str, Any]
    args: Sequence[bytes | None] = ()
    path_kwargs: Mapping[str, bytes | None] = {}


class URLSpec:
    """A route: paths that match ``pattern`` go to the class ``handler``.

    ``pattern`` is a regular expression for the whole path. What its groups match is passed to the
    handler's methods: by name if the groups have names, else in order. ``kwargs`` go to the
    handler's ``initialize``; ``name`` is for ``reverse_url``.

    Raises ``ValueError`` if only some of the groups have names.
    """

    def __init__(
        self,
        pattern: str | re.Pattern[str],
        handler: type[RequestHandler],
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        self.regex = re.compile(pattern)
        self.handler_class = handler
        self.kwargs = dict(kwargs or {})
        self.name = name
        named = self.regex.groupindex
        if named and len(named) != self.regex.groups:
            raise ValueError(f"groups in {self.regex.pattern!r} are named in part")
        self._plain = None if self.regex.groups else Target(handler, self.kwargs)

    def target(self, match: re.Match[str]) -> Target:
        """Return where a request goes whose path is ``match``."""
        if self._plain is not None:
            return self._plain
        if self.regex.groupindex:
            named = {name: _unquoted(value) for name, value in match.groupdict().items()}
            return Target(self.handler_class, self.kwargs, (), named)
        args = [_unquoted(value) for value in match.groups()]
        return Target(self.handler_class, self.kwargs, args)

    def reverse(self, *args: object) -> str:
        """Return the path that has ``args`` where the pattern has its groups.

        Raises ``ValueError`` if their number differs, or the pattern is not plain text and groups.
        """
        pieces = _text_between_groups(self.regex.pattern)
        if pieces is None or len(pieces) != self.regex.groups + 1:
            raise ValueError(f"cannot reverse {self.regex.pattern!r}")
        if len(args) != len(pieces) - 1:
            raise ValueError(f"{self.regex.pattern!r} takes {len(pieces) - 1} arguments")
        parts = [pieces[0]]
        for arg, piece in zip(args, pieces[1:], strict=True):
            parts += (quote(arg if isinstance(arg, bytes) else str(arg)), piece)
        return "".join(parts)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.regex.pattern!r}, {self.handler_class!r}, "
            f"kwargs={self.kwargs!r}, name={self.name!r})"
        )


Rule = URLSpec | tuple[Any, ...]


class Routes:
    """The routes of an application, by host.

    ``base`` is the class that handlers must be subclasses of.
    """

    def __init__(self, base: type[RequestHandler]) -> None:
        self._base = base
        self._hosts: list[tuple[re.Pattern[str], list[URLSpec]]] = []
        self._everywhere: list[URLSpec] = []
        self._names: dict[str, URLSpec] = {}

    def add(self, rules: Iterable[Rule], host_pattern: str | None = None) -> None:
        """Add routes, of the hosts that match ``host_pattern``, or where that is None of all.

        Raises ``TypeError`` for a handler that is none.
        """
        routes = [self._checked(rule) for rule in rules]
        if host_pattern is None:
            self._everywhere += routes
        else:
            self._hosts.append((re.compile(host_pattern, re.IGNORECASE), routes))
        for route in routes:
            if route.name is not None:
                if route.name in self._names:
                    log.warning("Several routes are called %s; the last counts", route.name)
                self._names[route.name] = route

    def _checked(self, rule: Rule) -> URLSpec:
        route = rule if isinstance(rule, URLSpec) else URLSpec(*rule)
        self.check(route.handler_class, f"the route {route.regex.pattern!r}")
        return route

    def check(self, handler: object, what: str) -> None:
        """Raise ``TypeError``, which says that it is ``what``'s, for a handler that is none."""
        if not (isinstance(handler, type) and issubclass(handler, self._base)):
            raise TypeError(
                f"{what} goes to {handler!r}, which is no subclass of {self._base.__name__}"
            )

    def find(self, path: str, host: str, default_host: str | None) -> Target | None:
        """Return where a request goes; None if no route matches.

        The routes of ``default_host`` serve hosts that :meth:`add` has not been told of.
        """
        for routes in self._of(host, default_host) if self._hosts else (self._everywhere,):
            for route in routes:
                match = route.regex.fullmatch(path)
                if match is not None:
                    return route.target(match)
        return None

    def _of(self, host: str, default: str | None) -> Iterator[list[URLSpec]]:
        yield from (routes for pattern, routes in self._hosts if pattern.fullmatch(host))
        yield self._everywhere
        if default is not None:
            yield from (routes for pattern, routes in self._hosts if pattern.fullmatch(default))

    def named(self, name: str) -> URLSpec:
        """Return the route called ``name``; raises ``KeyError`` if there is none."""
        if name not in self._names:
            raise KeyError(f"{name} not found in named urls")
        return self._names[name]


def _unquoted(value: str | None) -> bytes | None:
    return None if value is None else unquote_to_bytes(value.encode("latin-1"))


def _text_between_groups(pattern: str) -> list[str] | None:
    """Return the plain text before, between and after the groups of a regular expression.

    None if it holds anything else outside of its groups. A ``(?:...)`` within a group is part of
    what the argument stands for; outside of one there is no argument for it. Groups that capture
    within a group are left out, which the caller sees by the number of pieces.
    """
    pieces = [""]
    depth = 0
    pattern = pattern.removeprefix("^").removesuffix("$")
    characters = enumerate(pattern)
    for position, character in characters:
        if character == "\\":
            _, escaped = next(characters, (0, ""))
            if depth == 0:
                if not escaped or escaped.isalnum():  # a class or an assertion
                    return None
                pieces[-1] += escaped
        elif character == "(":
            if depth == 0:
                group = pattern[position : position + 4]
                if group.startswith("(?") and group != "(?P<":
                    return None
                pieces.append("")
            depth += 1
        elif character == ")":
            depth -= 1
        elif depth == 0:
            if character in "*+?[]{}|^$":
                return None
            pieces[-1] += character
    return None if depth else pieces  # else a parenthesis stands in a class
