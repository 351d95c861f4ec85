"""Schema: reads the options of a factory from its signature, and checks values against them."""

import dataclasses
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar, Unpack, runtime_checkable

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt, MaxLen, MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from registry.errors import ConfigError, shown

REQUIRED: Any = inspect.Parameter.empty
_UNIONS = (typing.Union, types.UnionType)
_CONVERSION = ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True, allow_inf_nan=False)
T = TypeVar("T")
# Python also reads 1_0 and ١ as numbers, but people who write them in a yaml mean something else.
NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*", re.ASCII | re.IGNORECASE)

Node = str | Mapping[str, Any]
"""A component in yaml: `softmax`, `{name: softmax, temperature: 0.05}`, or `ndcg@10` for `{name: ndcg, k: 10}`."""


@runtime_checkable
class Kind(Protocol):
    """The KIND of an annotation `Annotated[Node, KIND]`, which can check its nodes."""

    kind: str

    def check(self, node: Node, path: str) -> dict[str, Any]:
        """The complete node; raises a ConfigError if it is wrong."""
        ...


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: its type, its default (`REQUIRED` if it has none) and its text from the docstring."""

    name: str
    annotation: Any
    default: Any
    doc: str


@functools.cache
def options(factory: Callable[..., Any]) -> Mapping[str, Option]:
    """The options of a function or class, in the order of its signature.

    Positional-only parameters are left out, because the calling code passes them. `**options: Unpack[SomeTypedDict]`
    stands for the keys of that dictionary; their defaults come from the first parent class that lists them.

    Raises:
        ConfigError: If an annotation uses a name that does not exist at run time.
    """
    target = factory.__init__ if inspect.isclass(factory) else factory
    hints, docs = _hints(target, factory), argument_docs(factory)
    parameters = list(inspect.signature(target).parameters.values())[inspect.isclass(factory) :]
    made = {
        field.name: field.default_factory()
        for field in (dataclasses.fields(factory) if dataclasses.is_dataclass(factory) else ())
        if field.default_factory is not dataclasses.MISSING
    }
    found = {}
    for parameter in parameters:
        annotation = hints.get(parameter.name, Any)
        if parameter.kind is inspect.Parameter.VAR_KEYWORD and typing.get_origin(annotation) is Unpack:
            shared = typing.get_args(annotation)[0]
            docs = argument_docs(shared) | docs
            for name, hint in _hints(shared, factory).items():
                found[name] = Option(name, hint, _inherited_default(factory, name), docs.get(name, ""))
        elif parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            default = made.get(parameter.name, parameter.default)
            found[parameter.name] = Option(parameter.name, annotation, default, docs.get(parameter.name, ""))
    return found


def bind(
    factory: Callable[..., Any], given: Mapping[str, Any], path: str, *, provided: Sequence[str] = ()
) -> dict[str, Any]:
    """The given options, converted to plain yaml values, with all defaults filled in.

    Args:
        factory: The function or class whose signature is the schema.
        given: The options that the user wrote.
        path: The yaml path of these options.
        provided: Options that code supplies, which may be missing here.

    Raises:
        ConfigError: For an unknown option, a missing option, or a value that does not fit.
    """
    schema = options(factory)
    for name in given:
        if name not in schema:
            problem = f"no such option of {factory.__name__}."
            raise ConfigError(_join(path, name), problem, given=name, known=schema)
    bound = {}
    for name, option in schema.items():
        value = given.get(name, option.default)
        if isinstance(value, Mapping) and "name" not in value and _kind(option.annotation):
            usual = {"name": option.default} if isinstance(option.default, str) else option.default
            value = {**usual, **value} if isinstance(usual, Mapping) else value
        elif isinstance(value, Mapping) and dataclasses.is_dataclass(option.default):
            value = {**dataclasses.asdict(option.default), **value}  # type: ignore[arg-type]
        if value is not REQUIRED:
            bound[name] = convert(value, option.annotation, _join(path, name))
        elif name not in provided:
            raise ConfigError(_join(path, name), f"{factory.__name__} needs this option.", cure=option.doc or None)
    return bound


def convert(value: Any, annotation: Any, path: str) -> Any:
    """Convert a value to its annotation; nodes and dataclasses become mappings with all options.

    Numbers exclude bools, nan and infinity. The value must be in the range that the annotation states. Where a
    component is optional, `none` means null.

    Raises:
        ConfigError: If the value does not fit.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.NotRequired, typing.Required):
        return convert(value, arguments[0], path)
    if origin is typing.Annotated:
        if kind := _kind(annotation):
            return kind.check(value, path)
        if typing.get_origin(arguments[0]) is list:
            value = convert(value, arguments[0], path)
        return _validated(value, annotation, path)
    arms = arguments if origin in _UNIONS else (annotation,)
    if types.NoneType in arms and (value is None or (value == "none" and _kind(annotation))):
        return None
    if origin in _UNIONS:
        arms = tuple(arm for arm in arms if arm is not types.NoneType)
        if len(arms) == 1:
            return convert(value, arms[0], path)
        if all(typing.get_origin(arm) is Literal for arm in arms):
            return convert(value, Literal[*(choice for arm in arms for choice in typing.get_args(arm))], path)
    if origin is list and arguments and isinstance(value, Sequence) and not isinstance(value, str):
        return [convert(item, arguments[0], f"{path}[{place}]") for place, item in enumerate(value)]
    if origin is tuple and isinstance(value, Sequence) and len(value) == len(arguments) and not isinstance(value, str):
        parts = zip(value, arguments, strict=True)
        return tuple(convert(item, each, f"{path}[{place}]") for place, (item, each) in enumerate(parts))
    if origin is dict and dataclass_of(arguments[1]) and isinstance(value, Mapping):
        return {str(key): convert(item, arguments[1], _join(path, str(key))) for key, item in value.items()}
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        fields = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
        if not isinstance(fields, Mapping):
            raise ConfigError(path, f"expected options of {annotation.__name__}, got {shown(value)}.")
        return bind(annotation, fields, path)
    if origin is Literal and value not in arguments:
        raise ConfigError(path, f"no such choice: {shown(value)}.", given=value, known=arguments)
    return _validated(value, annotation, path)


def instantiate(factory: Callable[..., Any], bound: Mapping[str, Any]) -> dict[str, Any]:
    """Convert bound options to arguments of the factory: mappings become dataclasses where the signature has one."""
    schema, ready = options(factory), dict(bound)
    for name, value in bound.items():
        made = dataclass_of(schema[name].annotation)
        if made and isinstance(value, Mapping):
            ready[name] = made(**instantiate(made, value))
    return ready


def _cached(function: Callable[[Any], T]) -> Callable[[Any], T]:
    """Cache a function of annotations; some annotations cannot be hashed, such as `Annotated[int, {}]`."""
    remembered = functools.cache(function)

    @functools.wraps(function)
    def call(annotation: Any) -> T:
        try:
            hash(annotation)
        except TypeError:
            return function(annotation)
        return remembered(annotation)

    return call


@_cached
def dataclass_of(annotation: Any) -> type | None:
    """The dataclass among the types of an annotation, such as `Encoder` of `Encoder | None`."""
    arms = typing.get_args(annotation) or (annotation,)
    return next((arm for arm in arms if isinstance(arm, type) and dataclasses.is_dataclass(arm)), None)


@_cached
def describe(annotation: Any) -> str:
    """A type in words for readers of yaml: `int`, `linear | cosine`, `blocks`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.NotRequired, typing.Required):
        return describe(arguments[0])
    if origin is typing.Annotated:
        kind = _kind(annotation)
        return f"one of {kind.kind}" if kind else f"{describe(arguments[0])}{_range(arguments[1:])}"
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in _UNIONS:
        return " | ".join(describe(argument) for argument in arguments)
    if origin is not None and arguments:
        return f"{getattr(origin, '__name__', origin)}[{', '.join(map(describe, arguments))}]"
    if annotation is types.NoneType:
        return "null"
    return getattr(annotation, "__name__", str(annotation))


def first_line(factory: Any) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(factory) or "").strip().partition("\n")[0]


def argument_docs(factory: Any) -> dict[str, str]:
    """The text of each argument in the `Args:` section of a Google-style docstring, joined to one line.

    A class also has the arguments of its parents; its own texts have priority.
    """
    if not inspect.isclass(factory):
        return _arguments_in(inspect.getdoc(factory) or "")
    docs: dict[str, str] = {}
    for parent in reversed(inspect.getmro(factory)):
        text = vars(parent).get("__doc__") or ""
        if "Args:" not in text and "__init__" in vars(parent):
            text = parent.__init__.__doc__ or ""
        docs |= _arguments_in(inspect.cleandoc(text))
    return docs


def _arguments_in(text: str) -> dict[str, str]:
    section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", text, re.MULTILINE)
    entries = re.findall(r"^    \*{0,2}(\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(doc.split()) for name, doc in entries}


def _hints(target: Any, factory: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception as error:  # an annotation given as text is code, which can raise any exception
        code = getattr(inspect.unwrap(target), "__code__", None)
        place = f"{code.co_filename}, line {code.co_firstlineno}" if code else factory.__module__
        problem = f"an annotation of {factory.__qualname__} cannot be read: {type(error).__name__}: {error}."
        cure = "import what it names; not only under `if TYPE_CHECKING`"
        raise ConfigError(place, problem, cure=cure) from error


@_cached
def _kind(annotation: Any) -> Kind | None:
    """The kind of the node that an annotation expects, optional or not; None for other annotations."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) in (*_UNIONS, typing.NotRequired, typing.Required):
        return next(filter(None, map(_kind, arguments)), None)
    return next((extra for extra in arguments[1:] if isinstance(extra, Kind)), None)


def _validated(value: Any, annotation: Any, path: str) -> Any:
    """Convert a value by pydantic, but refuse conversions that change what the yaml means."""
    expected = f"expected {describe(annotation)}, got {shown(value)}"
    for place, leaf in _leaves(value):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise ConfigError(f"{path}{place}", f"{expected}." if leaf is value else f"{shown(leaf)} is not a number.")
        if isinstance(leaf, str) and "\0" in leaf:
            raise ConfigError(f"{path}{place}", f"{shown(leaf)} has the character \\0, which is not allowed.")
    types_named = set(_types(annotation))
    if types_named & {int, float}:
        if isinstance(value, bool) and bool not in types_named:
            raise ConfigError(path, f"{expected}.")
        if isinstance(value, str) and str not in types_named and not NUMBER.fullmatch(value):
            raise ConfigError(path, f"{expected}.")
    try:
        converted = _adapter(annotation).validate_python(value)
    except ValidationError as error:
        found = error.errors()[0]
        context = found.get("ctx", {})
        reason = str(context.get("error", found["msg"]))
        said = any(context.get(name) == limit for name, limit in _limits_in(annotation))
        raise ConfigError(path, f"{expected}." if said else f"{expected} ({reason}).") from error
    _refuse_rewritten(value, converted, path)
    return converted


@_cached
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=_CONVERSION)


def _refuse_rewritten(value: Any, converted: Any, path: str) -> None:
    """Refuse a text made from a decimal number: yaml reads 1.10 as 1.1, and the text 1234e56 as 1.234e+59."""
    texts = {place for place, leaf in _leaves(converted) if isinstance(leaf, str)}
    for place, leaf in _leaves(value):
        if isinstance(leaf, float) and place in texts:
            problem = f"expected a text, got the number {leaf!r}, which may differ from the digits that you wrote."
            raise ConfigError(f"{path}{place}", problem, cure='quote it: "1.10", in a command \'key="1.10"\'')


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all plain values inside a value, each with its path."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(each, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _leaves(each, f"{place}[{number}]")
    else:
        yield place, value


def _types(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation allows, without ranges and without the types of items."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _types(arguments[0])
    elif origin in _UNIONS:
        for arm in arguments:
            yield from _types(arm)
    elif origin is Literal:
        yield from map(type, arguments)
    else:
        yield annotation


def _range(metadata: Sequence[Any]) -> str:
    """The range of an annotation in words, such as ` from 0 to 1`."""
    limits = _limits(metadata)
    if "min_length" in limits:
        return f" of 1 to {limits['max_length']} characters" if "max_length" in limits else ", not empty"
    if "ge" in limits and "le" in limits:
        return f" from {_limit(limits['ge'])} to {_limit(limits['le'])}"
    words = {"gt": "above", "ge": "of at least", "lt": "below", "le": "at most"}
    said = [f"{word} {_limit(limits[name])}" for name, word in words.items() if name in limits]
    return f" {' and '.join(said)}" if said else ""


def _limits(metadata: Sequence[Any]) -> dict[str, Any]:
    """The limits that `_range` has words for, keyed by pydantic's names."""
    limits: dict[str, Any] = {}
    for each in metadata:
        if isinstance(each, GroupedMetadata):
            limits |= _limits(list(each))
        elif isinstance(each, FieldInfo):
            limits |= _limits(each.metadata)
        elif isinstance(each, Gt | Ge | Lt | Le | MinLen | MaxLen):
            limits |= dataclasses.asdict(each)
    if limits.get("min_length") == 1:
        return limits
    return {name: limit for name, limit in limits.items() if not name.endswith("_length")}


def _limits_in(annotation: Any) -> Iterator[tuple[str, Any]]:
    """Yield the limits of an annotation and of all annotations inside it."""
    if hasattr(annotation, "__metadata__"):
        yield from _limits(annotation.__metadata__).items()
    for each in typing.get_args(annotation)[: 1 if hasattr(annotation, "__metadata__") else None]:
        yield from _limits_in(each)


def _limit(number: Any) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def _inherited_default(factory: Any, name: str) -> Any:
    for parent in inspect.getmro(factory) if inspect.isclass(factory) else ():
        if "__init__" in vars(parent) and name in (parameters := inspect.signature(parent.__init__).parameters):
            return parameters[name].default
    return REQUIRED


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else str(name)
