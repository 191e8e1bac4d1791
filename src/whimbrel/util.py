"""Small helpers that every other module may use: :class:`Configurable`, :func:`import_object`."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple, Self


def utf8(value: str | bytes) -> bytes:
    """Return ``value`` as bytes, a ``str`` being encoded as UTF-8.

    Raises ``TypeError`` for anything that is neither ``str`` nor ``bytes``.
    """
    if isinstance(value, str):
        return value.encode("utf-8")
    if isinstance(value, bytes):
        return value
    raise TypeError(f"expected str or bytes, got {type(value).__name__}")


def import_object(name: str) -> Any:
    """Import the module or attribute that a dotted name stands for.

    ``import_object("a")`` is ``import a``; ``import_object("a.b.c")`` is ``from a.b import c``,
    where ``c`` may be an attribute of ``a.b`` or a submodule.

    Raises ``ImportError`` if the module, or the attribute in it, does not exist; an error raised
    while a module is being imported passes through as it is.
    """
    module_name, _, attribute = name.rpartition(".")
    if not module_name:
        return importlib.import_module(name)
    module = importlib.import_module(module_name)
    try:
        return getattr(module, attribute)
    except AttributeError:
        pass
    # Not an attribute (yet): a submodule becomes one once it has been imported.
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise  # the submodule exists; what it imports does not
        raise ImportError(f"no module or attribute named {name!r}") from error


class _Configuration(NamedTuple):
    """What ``configure`` was told: the class, and keyword arguments for its instances."""

    impl: type[Configurable] | None = None
    kwargs: dict[str, Any] | None = None


class Configurable:
    """Base class of an interface whose implementation is chosen at run time.

    Constructing the interface constructs the configured implementation, so that callers name
    only the interface. Subclasses define :meth:`configurable_base`,
    :meth:`configurable_default`, and :meth:`initialize` in place of ``__init__``.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        base = cls.configurable_base()
        impl: type[Any] = cls
        if cls is base:
            impl = cls.configured_class()
            # The constructor's own arguments win over configure()'s.
            kwargs = {**(_configuration_of(base).kwargs or {}), **kwargs}
        if impl.configurable_base() is not base:
            # The implementation is an interface in turn: let it choose its own.
            nested: Self = impl(*args, **kwargs)
            return nested
        instance: Self = super().__new__(impl)
        instance.initialize(*args, **kwargs)
        return instance

    @classmethod
    def configurable_base(cls) -> type[Configurable]:
        """Return the interface: the class on which ``configure`` takes effect."""
        raise NotImplementedError

    @classmethod
    def configurable_default(cls) -> type[Configurable]:
        """Return the implementation used while none is configured."""
        raise NotImplementedError

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Set up a new instance; takes what the constructor was given, and ``configure``'s.

        Used in place of ``__init__``, which would run a second time where ``__new__`` returns
        an instance that exists already.
        """

    @classmethod
    def configure(cls, impl: type[Any] | str | None, **kwargs: Any) -> None:
        """Choose the class that constructing the interface makes from now on.

        ``impl`` is a class, its dotted name, or None for the default. ``kwargs`` are passed to
        the constructor of every instance made through the interface (not to those made by
        naming an implementation), where the constructor's own arguments win. Each call
        replaces all that earlier calls have set.

        Raises ``ValueError`` if ``impl`` is not a subclass of the interface, ``ImportError`` if
        a dotted name cannot be imported.
        """
        base = cls.configurable_base()
        if isinstance(impl, str):
            impl = import_object(impl)
        if impl is not None and not (isinstance(impl, type) and issubclass(impl, base)):
            raise ValueError(f"{impl!r} is not a subclass of {base.__module__}.{base.__qualname__}")
        _configure(base, _Configuration(impl, dict(kwargs)))

    @classmethod
    def configured_class(cls) -> type[Configurable]:
        """Return the class that constructing the interface makes."""
        base = cls.configurable_base()
        configuration = _configuration_of(base)
        if configuration.impl is None:
            # Remembered, so that the choice of a default is made, and logged, once.
            configuration = configuration._replace(impl=base.configurable_default())
            _configure(base, configuration)
        impl = configuration.impl
        assert impl is not None
        return impl

    @classmethod
    def _save_configuration(cls) -> _Configuration:
        """Return what is configured, for :meth:`_restore_configuration`: tests use the pair."""
        return _configuration_of(cls.configurable_base())

    @classmethod
    def _restore_configuration(cls, saved: _Configuration) -> None:
        """Undo every ``configure`` since ``saved`` was taken."""
        _configure(cls.configurable_base(), saved)


# Kept on the interface itself (its own __dict__: a nested interface must not see its parent's).
_ATTRIBUTE = "_whimbrel_configuration"
_UNCONFIGURED = _Configuration()


def _configuration_of(base: type[Configurable]) -> _Configuration:
    configuration: _Configuration = vars(base).get(_ATTRIBUTE, _UNCONFIGURED)
    return configuration


def _configure(base: type[Configurable], configuration: _Configuration) -> None:
    setattr(base, _ATTRIBUTE, configuration)
