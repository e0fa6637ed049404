"""What comes from outside becomes typed values here, strictly, with an error that a person can act on.

The config file and a caller's `spec` share this: one cattrs converter that guesses nothing ("false" is no bool, 3.9 no
int, an unknown key no comment), and readers for single values. A reader takes any value and returns the typed one, or
raises `NotAllowed` with what its key takes.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sized
from difflib import get_close_matches
from enum import StrEnum
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar, get_args, get_origin

import attrs
from cattrs import (
    AttributeValidationNote,
    BaseValidationError,
    Converter,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.cols import mapping_structure_factory
from cattrs.gen import make_dict_structure_fn, override

from supervisor.conversation.units import parse_duration, parse_size

_T = TypeVar("_T")
Reader: TypeAlias = Callable[[object], _T]
# cattrs calls a hook with the raw value and the wanted type; neither has a static type before it has run.
_Hook: TypeAlias = Callable[[Any, Any], Any]

LONGEST: Final = "3650d"
MOST_ITEMS: Final = 1000
"""Items of a list and keys of a table: each that is wrong costs an exception, and a request may hold very many."""

_MOST: Final = 2**62
_WIDTH: Final = 40
_KINDS: Final = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a string",
    dict: "a table",
    list: "a list",
    type(None): "null",
}


class NotAllowed(ValueError):
    """A value that its key does not take; says what it does take."""


@attrs.frozen
class Problem:
    """One thing that is wrong: the key path (`timeouts.start`, `sandbox.mounts[0]`) and what is allowed there."""

    path: str
    message: str


def shown(value: object) -> str:
    """Name a value in an error: itself if that is short, else its kind."""
    match value:
        case bool():
            words = "true" if value else "false"
        case str():
            words = repr(value) if len(value) <= _WIDTH else f"{value[:_WIDTH]!r}..."
        case int() | float() if -_MOST < value < _MOST:
            words = str(value)
        case _:
            words = kind_of(value)
    return words


def kind_of(value: object) -> str:
    """Name what kind of value this is, in a word that fits TOML and JSON."""
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a string",
        dict: "a table",
        list: "a list",
    }
    return kinds.get(type(value), "null" if value is None else f"a {type(value).__name__}")


def text(value: object) -> str:
    """Read a string that any encoder, file and process takes. Its errors never show it: it may be a secret."""
    if not isinstance(value, str):
        raise NotAllowed(f"must be a string, not {kind_of(value)}")
    if "\0" in value or not _encodable(value):
        raise NotAllowed("must not contain NUL or half a surrogate pair")
    return value


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def name(value: object) -> str:
    """Read a name: a string that is not empty and has no white space."""
    word = text(value)
    if not word or word.split() != [word]:
        raise NotAllowed(f"must be a name without spaces, not {shown(word)}")
    return word


def absolute_path(value: object) -> str:
    """Read an absolute path that only goes down, and is not the root itself."""
    path = text(value)
    if not path.startswith("/") or not path.strip("/") or {".", ".."} & set(path.split("/")):
        raise NotAllowed(f'must be an absolute path like "/srv/data", not {shown(path)}')
    return path


def flag(value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise NotAllowed(f"must be true or false, not {shown(value)}")
    return value


def integer(low: int = -_MOST, high: int = _MOST) -> Reader[int]:
    """Make a reader of whole numbers from `low` to `high`."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise NotAllowed(f"must be a whole number{_between(low, high)}, not {shown(value)}")
        return value

    return read


def number(low: float = -math.inf, high: float = math.inf) -> Reader[float]:
    """Make a reader of finite numbers from `low` to `high`; whole ones are fine."""

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise NotAllowed(f"must be a number{_between(low, high)}, not {shown(value)}")
        if not -_MOST <= value <= _MOST:
            raise NotAllowed(f"must be a number of common size, not {shown(value)}")
        return float(value)

    return read


def _between(low: float, high: float) -> str:
    return "" if high >= _MOST else f" from {low} to {high}"


def duration(low: str = "1ms", high: str = LONGEST) -> Reader[float]:
    """Make a reader of durations like "1m30s", in seconds. A bare number is refused: it does not say of what."""
    least, most = parse_duration(low), parse_duration(high)

    def read(value: object) -> float:
        if not isinstance(value, str):
            raise NotAllowed(f'{shown(value)} is no duration; write it like "30s", "1m30s" or "500ms"')
        seconds = parse_duration(value)
        if not least <= seconds <= most:
            raise NotAllowed(f"must be from {low} to {high}, not {value}")
        return seconds

    return read


def size(low: str = "1B", high: str = "1024TiB") -> Reader[int]:
    """Make a reader of sizes like "2GiB" or whole numbers of bytes, in bytes."""
    least, most = parse_size(low), parse_size(high)

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise NotAllowed(f'{shown(value)} is no size; write it like "2GiB", "512MiB" or "1GB"')
        count = parse_size(value) if isinstance(value, str) else value
        if not least <= count <= most:
            raise NotAllowed(f"must be from {low} to {high}, not {shown(value)}")
        return count

    return read


def listed(read: Reader[_T]) -> Reader[tuple[_T, ...]]:
    """Make a reader of lists whose items are read by `read`; its error tells of every wrong item by its index."""

    def read_list(value: object) -> tuple[_T, ...]:
        if not isinstance(value, (list, tuple)):
            raise NotAllowed(f"must be a list, not {shown(value)}")
        _check_count(value)
        items, errors = [], []
        for index, item in enumerate(value):
            try:
                items.append(read(item))
            except (BaseValidationError, ValueError) as error:
                error.add_note(IterableValidationNote(f"item {index}", index, object))
                errors.append(error)
        if errors:
            raise IterableValidationError("items of a list", errors, tuple)
        return tuple(items)

    return read_list


def strict_converter() -> Converter:
    """Make a converter that takes the right type or refuses: bool, int, float, str, enums, lists and tables."""
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    converter.register_structure_hook_factory(partial(_is_of, tuple), partial(_tuple_hook, converter))
    converter.register_structure_hook_factory(partial(_is_of, Mapping), partial(_map_hook, converter))
    converter.register_structure_hook(StrEnum, _word)
    converter.register_structure_hook(bool, _hook(flag))
    converter.register_structure_hook(int, _hook(integer()))
    converter.register_structure_hook(float, _hook(number()))
    converter.register_structure_hook(str, _hook(text))
    return converter


def register_table(converter: Converter, table: type[attrs.AttrsInstance], **readers: Reader[object]) -> None:
    """Teach the converter a class whose fields are the keys of a table, each read by its reader or else by its type.

    A reader also stands for an optional field: None stays None.
    """
    optional = {field.name for field in attrs.fields(table) if type(None) in get_args(field.type)}
    hooks = {key: _optional(read) if key in optional else _hook(read) for key, read in readers.items()}
    overrides = {key: override(struct_hook=hook) for key, hook in hooks.items()}
    structure = make_dict_structure_fn(table, converter, **overrides)  # type: ignore[arg-type]  # mypy takes the keys for its options

    def structure_table(value: object, _: object) -> object:
        return structure(_mapping(value), table)

    converter.register_structure_hook(table, structure_table)


def problems_of(error: Exception, path: str) -> Iterator[Problem]:
    """Flatten what the converter raised into problems, each with its key path below `path`."""
    match error:
        case BaseValidationError():
            for child in error.exceptions:
                yield from problems_of(child, path + _step(child, "." if path else ""))
        case ForbiddenExtraKeysError():
            known = [field.name for field in attrs.fields(error.cl)]
            for key in sorted(error.extra_fields):
                short = key[:_WIDTH]
                yield Problem(f"{path}.{short}" if path else short, _unknown_key(key, known))
        case _:
            yield Problem(path, str(error))


def _step(error: Exception, dot: str) -> str:
    for note in getattr(error, "__notes__", ()):
        match note:
            case AttributeValidationNote():
                return f"{dot}{note.name}"
            case IterableValidationNote(index=int()):
                return f"[{note.index}]"
            case IterableValidationNote():
                return f"{dot}{note.index}"
    return ""


def _unknown_key(key: str, known: list[str]) -> str:
    near = get_close_matches(key[:_WIDTH], known, n=1)
    return f"unknown key; did you mean {near[0]}?" if near else f"unknown key; known are {', '.join(sorted(known))}"


def _hook(read: Reader[object]) -> _Hook:
    return lambda value, _: read(value)


def _optional(read: Reader[object]) -> _Hook:
    return lambda value, _: None if value is None else read(value)


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise NotAllowed(f"must be a table of keys, not {shown(value)}")
    _check_count(value)
    return value


def _check_count(value: Sized) -> None:
    if len(value) > MOST_ITEMS:
        raise NotAllowed(f"must have at most {MOST_ITEMS} entries, not {len(value)}")


def _is_of(origin: object, kind: object) -> bool:
    return get_origin(kind) is origin


def _word(value: object, kind: type[StrEnum]) -> StrEnum:
    try:
        return kind(text(value))
    except ValueError as error:
        raise NotAllowed(f"must be one of {', '.join(repr(str(word)) for word in kind)}, not {shown(value)}") from error


def _tuple_hook(converter: Converter, kind: type) -> _Hook:
    item = get_args(kind)[0]
    structure_item = converter.get_structure_hook(item)
    return _hook(listed(lambda value: structure_item(value, item)))


def _map_hook(converter: Converter, kind: type) -> _Hook:
    structure_items: _Hook = mapping_structure_factory(kind, converter)
    return lambda value, _: structure_items(_mapping(value), kind)
