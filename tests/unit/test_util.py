"""Configurable's semantics are Tornado's; import_object finds modules and attributes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from whimbrel.util import Configurable, import_object, utf8


class Shape(Configurable):
    arguments: dict[str, Any]

    @classmethod
    def configurable_base(cls) -> type[Configurable]:
        return Shape

    @classmethod
    def configurable_default(cls) -> type[Configurable]:
        return Square

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        self.positional = args
        self.arguments = kwargs


class Square(Shape):
    pass


class Circle(Shape):
    pass


class Nested(Shape):
    """An implementation that is an interface in turn."""

    @classmethod
    def configurable_base(cls) -> type[Configurable]:
        return Nested

    @classmethod
    def configurable_default(cls) -> type[Configurable]:
        return NestedDefault


class NestedDefault(Nested):
    pass


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    saved = Shape._save_configuration(), Nested._save_configuration()
    yield
    Shape._restore_configuration(saved[0])
    Nested._restore_configuration(saved[1])


def test_default_is_used_until_configured() -> None:
    """Constructing the base makes an instance of configurable_default()."""
    assert type(Shape()) is Square
    assert Shape.configured_class() is Square


def test_default_is_chosen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """configurable_default() is asked once, so that what it logs is logged once."""
    calls = []
    monkeypatch.setattr(Shape, "configurable_default", lambda: calls.append(1) or Circle)
    assert type(Shape()) is type(Shape()) is Circle
    assert calls == [1]


@pytest.mark.parametrize("impl", [Circle, f"{__name__}.Circle"])
def test_configure_by_class_or_name(impl: type | str) -> None:
    """A class and its dotted name configure the same."""
    Shape.configure(impl)
    assert type(Shape()) is Circle


def test_configure_none_is_the_default() -> None:
    """configure(None) goes back to the default implementation."""
    Shape.configure(Circle)
    Shape.configure(None)
    assert type(Shape()) is Square


def test_configure_on_a_subclass_acts_on_the_base() -> None:
    """configure() may be called on an implementation, and counts for the interface."""
    Square.configure(Circle)
    assert type(Shape()) is Circle


def test_configured_kwargs_reach_initialize() -> None:
    """Keyword arguments of configure() reach every instance made through the base."""
    Shape.configure(None, size=3)
    assert Shape(1, color="red").arguments == {"size": 3, "color": "red"}
    assert Shape(1).positional == (1,)


def test_constructor_arguments_win() -> None:
    """The constructor's arguments win over configure()'s."""
    Shape.configure(Circle, size=3)
    assert Shape(size=4).arguments == {"size": 4}
    assert Shape().arguments == {"size": 3}


def test_configured_kwargs_do_not_reach_named_implementations() -> None:
    """An implementation constructed by its own name sees nothing of configure()."""
    Shape.configure(Circle, size=3)
    square = Square()
    assert type(square) is Square
    assert square.arguments == {}
    assert Circle().arguments == {}


def test_each_configure_replaces_the_last() -> None:
    """A later configure() forgets the arguments of an earlier one."""
    Shape.configure(Circle, size=3)
    Shape.configure(Circle, color="red")
    assert Shape().arguments == {"color": "red"}


@pytest.mark.parametrize("impl", [dict, int, f"{__name__}.test_each_configure_replaces_the_last"])
def test_not_a_subclass_is_refused(impl: Any) -> None:
    """Whatever is no subclass of the base raises ValueError and changes nothing."""
    Shape.configure(Circle)
    with pytest.raises(ValueError, match=r"is not a subclass of .*Shape"):
        Shape.configure(impl)
    assert type(Shape()) is Circle


def test_unknown_name_raises_at_configure() -> None:
    """A dotted name that cannot be imported raises ImportError when it is configured."""
    with pytest.raises(ImportError):
        Shape.configure("whimbrel.no_such_module.Client")


def test_nested_interface_chooses_for_itself() -> None:
    """An implementation with a base of its own makes what is configured there."""
    Shape.configure(Nested, size=3)
    instance = Shape()
    assert type(instance) is NestedDefault
    assert instance.arguments == {"size": 3}


def test_nested_interface_does_not_inherit_the_configuration() -> None:
    """What is configured for an interface does not count for one that derives from it."""
    Shape.configure(Circle, size=3)
    assert Nested().arguments == {}
    assert type(Nested()) is NestedDefault


def test_save_and_restore() -> None:
    """_restore_configuration() undoes class and arguments."""
    saved = Shape._save_configuration()
    Shape.configure(Circle, size=3)
    Shape._restore_configuration(saved)
    assert type(Shape()) is Square
    assert Shape().arguments == {}


def test_abstract_methods_raise() -> None:
    """A subclass that names no base or default cannot be constructed."""
    with pytest.raises(NotImplementedError):
        Configurable()
    with pytest.raises(NotImplementedError):
        Configurable.configurable_default()


def test_import_object_module_and_attribute() -> None:
    """Modules, submodules and attributes are all found by dotted name."""
    import json
    import json.decoder

    assert import_object("json") is json
    assert import_object("json.decoder") is json.decoder
    assert import_object("json.decoder.JSONDecoder") is json.decoder.JSONDecoder


def test_import_object_imports_a_submodule(monkeypatch: pytest.MonkeyPatch) -> None:
    """A submodule that nobody has imported yet is imported."""
    import xml.dom

    monkeypatch.delitem(sys.modules, "xml.dom.pulldom", raising=False)
    monkeypatch.delattr(xml.dom, "pulldom", raising=False)
    assert import_object("xml.dom.pulldom").__name__ == "xml.dom.pulldom"


def test_import_object_missing() -> None:
    """What does not exist raises ImportError naming it."""
    with pytest.raises(ImportError, match="no_such_attribute"):
        import_object("json.no_such_attribute")
    with pytest.raises(ImportError):
        import_object("no_such_module_at_all")


def test_import_object_keeps_errors_of_the_imported(tmp_path: Any, monkeypatch: Any) -> None:
    """A submodule that exists but fails to import says what it misses, not that it is missing."""
    package = tmp_path / "wb_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "broken.py").write_text("import wb_missing_dependency")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError) as caught:
        import_object("wb_package.broken")
    assert caught.value.name == "wb_missing_dependency"


def test_utf8() -> None:
    """str is encoded, bytes pass, all else is a TypeError."""
    assert utf8("é") == b"\xc3\xa9"
    assert utf8(b"\xff") == b"\xff"
    with pytest.raises(TypeError, match="NoneType"):
        utf8(None)  # type: ignore[arg-type]
