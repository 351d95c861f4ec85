"""Whatever does not fit an option's type or range is one error that names the option; made from the signatures."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, Literal

import annotated_types as limits
import pytest

from registry import KINDS, ConfigError, FeaturesConfig, RunConfig, schema
from training.trainer import RANGES, build_trainer

NAN, INF = math.nan, math.inf
NO_NAME = "no_such_thing_anywhere"
NO_NUMBERS = ["abc", "", "1:30", "1_0", "0x", True, [], [1], {}, {"a": 1}, NAN, INF, -INF, "nan", "inf", "1e999"]
NO_TEXTS = [[], ["a"], {}, {"a": "b"}, True, NAN, INF, "a\0b"]
NO_LISTS = ["abc", 5, {}, {"a": 1}, True, NAN]
NO_CHOICES = [NO_NAME, "", [], {}, 10**30, NAN]
NO_NODES = [NO_NAME, 5, [1], {"name": 5}, {"name": NO_NAME}, True, NAN]
NO_SWITCHES = [NO_NAME, "", 2, -1, [], {}, NAN]


def inside(annotation: Any) -> tuple[Any, list[Any]]:
    """A type without its ranges, and the ranges."""
    if typing.get_origin(annotation) in (typing.NotRequired, typing.Required):
        return inside(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is not typing.Annotated:
        return annotation, []
    plain, *metadata = typing.get_args(annotation)
    flat = [part for each in metadata for part in (each if isinstance(each, limits.GroupedMetadata) else [each])]
    return plain, flat


def arms_of(annotation: Any) -> list[Any]:
    return (
        list(typing.get_args(annotation))
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else [annotation]
    )


def kind_of(annotation: Any) -> Any:
    return next((part for arm in arms_of(annotation) for part in inside(arm)[1] if isinstance(part, schema.Kind)), None)


def beyond(kind: type, metadata: list[Any]) -> Iterator[Any]:
    """Numbers on the wrong side of both ends."""
    step = 1 if kind is int else 1e-6
    for limit in metadata:
        match limit:
            case limits.Ge(ge=end):
                yield from (end - step, end - 10**6)
            case limits.Gt(gt=end):
                yield from (end, end - step, -(10**9))
            case limits.Le(le=end):
                yield from (end + step, 2**63 if kind is int else 1e300)
            case limits.Lt(lt=end):
                yield from (end, end + step, 1e300)


def wrong(annotation: Any) -> list[Any]:
    """Values that no option of that type and range can have."""
    arms = arms_of(annotation)
    found = _wrong_of_arms([arm for arm in arms if arm is not types.NoneType])
    return [value for value in found if value is not None] if types.NoneType in arms else [*found, None]


def _wrong_of_arms(arms: list[Any]) -> list[Any]:
    if len(arms) > 1:
        # A union refuses what all of its types refuse.
        others = [[*map(repr, wrong(arm))] for arm in arms[1:]]
        return [value for value in wrong(arms[0]) if all(repr(value) in other for other in others)]
    plain, metadata = inside(arms[0])
    origin = typing.get_origin(plain)
    if plain in (int, float):
        fractions = [1.5] if plain is int else []
        return [*NO_NUMBERS, *fractions, *beyond(plain, metadata), 10**400]
    if plain is str:
        return [*NO_TEXTS, *([""] if any(isinstance(each, limits.MinLen) for each in metadata) else [])]
    if plain is bool:
        return NO_SWITCHES
    if origin is Literal:
        return NO_CHOICES
    if origin is list:
        items = [[value] for value in wrong(typing.get_args(plain)[0])]
        return [*NO_LISTS, *items, *([[]] if any(isinstance(each, limits.MinLen) for each in metadata) else [])]
    if origin is tuple:
        good = [0.5] * len(typing.get_args(plain))
        items = [[value, *good[1:]] for value in wrong(typing.get_args(plain)[0])]
        return [*NO_LISTS, [], good[1:], [*good, 0.5], *items]
    if origin is dict:
        return ["abc", 5, [1], True, NAN, {"a": NAN}] if typing.get_args(plain)[1] is Any else ["abc", 5, [1], NAN]
    if dataclasses.is_dataclass(plain):
        return ["abc", 5, [1], True, NAN, {NO_NAME: 1}]
    raise AssertionError(f"what is wrong for {plain}?")


def good(annotation: Any) -> Any:
    """A value for an option that has no default."""
    if kind := kind_of(annotation):
        return least(kind, kind.names()[0])
    plain, metadata = inside(arms_of(annotation)[0])
    return {str: "some", int: next((end.ge for end in metadata if isinstance(end, limits.Ge)), 1)}[plain]


def least(kind: Any, name: str) -> dict[str, Any]:
    """The shortest node of a component that is right."""
    return {"name": name, **needed(kind.get(name), kind.provided)}


def needed(factory: Any, provided: tuple[str, ...] = ()) -> dict[str, Any]:
    listed = schema.options(factory).values()
    return {
        option.name: good(option.annotation)
        for option in listed
        if option.default is schema.REQUIRED and option.name not in provided
    }


def spoilt(
    factory: Any,
    start: dict[str, Any],
    path: str,
    *,
    deep: bool,
    above: tuple[Any, ...] = (),
    wrap: Callable[[Any], dict[str, Any]] = lambda node: node,
) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """The path of each option, a value that it cannot have, and all that is right but for it.

    Args:
        factory: Whose options.
        start: What is right.
        path: Where that stands.
        deep: Some values for each option of every component that an option can name, instead of all for its own.
        above: The kinds of components around this one; a ranker in a ranker is not looked into again.
        wrap: Puts the options in their place.
    """
    yield f"{path}.{NO_NAME}".lstrip("."), 1, wrap({**start, NO_NAME: 1})
    for option in schema.options(factory).values():
        here = f"{path}.{option.name}".lstrip(".")

        def spoil(value: Any, name: str = option.name) -> dict[str, Any]:
            return wrap({**start, name: value})

        listed = typing.get_origin(option.annotation) is list
        kind = kind_of(typing.get_args(option.annotation)[0] if listed else option.annotation)
        nodes = [*NO_LISTS, *([node] for node in NO_NODES)] if listed else NO_NODES
        values = nodes if kind else wrong(option.annotation)
        for value in values[:: max(1, len(values) // 3)] if deep else values:
            yield here, value, spoil(value)
        if nested := schema.dataclass_of(option.annotation):
            yield from spoilt(nested, needed(nested), here, deep=deep, above=above, wrap=spoil)
        if kind and deep and kind not in above:
            for name in kind.names():
                inner = (lambda node, spoil=spoil: spoil([node])) if listed else spoil
                place = f"{here}[0]" if listed else here
                around = (*above, kind)
                yield from spoilt(kind.get(name), least(kind, name), place, deep=True, above=around, wrap=inner)


def fault_of(check: Callable[[Any], Any], given: Any, path: str) -> str:
    """What is amiss with how something wrong is refused; nothing if all is as it should be."""
    try:
        check(given)
    except ConfigError as error:
        first, *others = str(error).splitlines()
        if error.path != path and not error.path.startswith((f"{path}[", f"{path}.")):
            return f"another key is named: {error}"
        ordinary = all(line.startswith(("  Did you mean: ", "  Known:        ", "  What to do:   ")) for line in others)
        return "" if ordinary and first else f"not one clear line: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted in silence"


def faults(mistakes: Iterator[tuple[str, Any, Any]], check: Callable[[Any], Any]) -> tuple[int, list[str]]:
    """How many mistakes were made, and those that were not refused as they should be."""
    found = [(f"{where}: {value!r}", fault_of(check, given, where)) for where, value, given in mistakes]
    return len(found), [f"{what}: {fault}" for what, fault in found if fault]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_wrong_value_of_any_option_of_any_component_is_refused_by_its_key(kind: Any) -> None:
    for name in kind.names():
        mistakes = spoilt(kind.get(name), least(kind, name), kind.kind, deep=False)
        number, found = faults(mistakes, lambda node: kind.check(node, kind.kind))
        assert number > 0 and found == []


@pytest.mark.parametrize("config", [RunConfig, FeaturesConfig])
def test_a_wrong_value_at_any_depth_of_a_config_is_refused_by_its_dotted_key(config: Any) -> None:
    mistakes = spoilt(config, needed(config), "", deep=True)
    number, found = faults(mistakes, lambda given: schema.bind(config, given, ""))
    assert number > 300 and found == []


@pytest.mark.parametrize("option", RANGES)
def test_a_wrong_value_of_an_option_of_the_trainer_is_refused_by_its_key(option: str) -> None:
    mistakes = ((f"trainer.{option}", value, {option: value}) for value in wrong(RANGES[option]))
    number, found = faults(mistakes, build_trainer)
    assert number > 0 and found == []


def test_every_number_of_every_component_has_a_range_with_two_ends() -> None:
    for registry in KINDS.values():
        for name in registry.names():
            if not registry.get(name).__module__.startswith(registry.home):
                continue  # other tests register components of their own
            for where, plain, metadata in numbers_of(registry.get(name), f"{registry.kind}.{name}"):
                ends = [type(each) for each in metadata]
                assert {limits.Ge, limits.Gt} & {*ends} and {limits.Le, limits.Lt} & {*ends}, (where, plain)


def numbers_of(factory: Any, path: str) -> Iterator[tuple[str, Any, list[Any]]]:
    for option in schema.options(factory).values():
        where = f"{path}.{option.name}"
        if nested := schema.dataclass_of(option.annotation):
            yield from numbers_of(nested, where)
        for part in parts_of(option.annotation):
            if inside(part)[0] in (int, float):
                yield where, *inside(part)


def parts_of(annotation: Any) -> Iterator[Any]:
    """Each type in a type: of unions, lists and pairs."""
    for arm in arms_of(annotation):
        yield arm
        for argument in typing.get_args(inside(arm)[0]):
            if typing.get_origin(inside(arm)[0]) is not Literal:
                yield from parts_of(argument)
