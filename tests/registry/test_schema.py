"""The signature of a factory is the schema of its options."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypedDict, Unpack

import pydantic
import pytest
from annotated_types import Gt, Le, MaxLen, MinLen

from registry import ConfigError, Node, Registry, schema

COLOURS: Registry = Registry("colours", __name__)


@COLOURS.register("red")
def red(shade: int = 1) -> str:
    return f"red {shade}"


@COLOURS.register("blue")
def blue() -> str:
    return "blue"


@dataclass(frozen=True)
class Pen:
    width: float = 1.0
    ink: Annotated[Node, COLOURS] = "red"
    tags: list[str] = field(default_factory=lambda: ["new"])


class Shared(TypedDict, total=False):
    """What many share.

    Args:
        speed: How fast.
        ink: What with.
    """

    speed: float
    ink: Annotated[Node, COLOURS] | None


class Base:
    def __init__(self, *, speed: float = 2.5, ink: Node | None = None) -> None:
        self.speed, self.ink = speed, ink


class Draw(Base):
    """Draw lines.

    Args:
        size: How large, in
            metres.
        shared: The rest.
    """

    def __init__(self, paper: object, /, size: int, **shared: Unpack[Shared]) -> None:
        super().__init__(**shared)


def bound(annotation: Any, value: Any, default: Any = schema.REQUIRED) -> Any:
    def factory(option: Any = default) -> None: ...

    factory.__annotations__["option"] = annotation
    return schema.bind(factory, {"option": value}, "here")["option"]


def test_positional_only_parameters_cannot_be_set() -> None:
    def loss(scores: list[float], labels: list[float], /, *, temperature: float = 1.0) -> None: ...

    assert list(schema.options(loss)) == ["temperature"]
    with pytest.raises(ConfigError, match=r"^ranker\.loss\.scores: no such option of loss"):
        schema.bind(loss, {"scores": [1]}, "ranker.loss")


def test_shared_options_come_with_the_defaults_and_words_of_where_they_are_spelled_out() -> None:
    found = schema.options(Draw)
    assert list(found) == ["size", "speed", "ink"]
    assert (found["size"].default, found["size"].doc) == (schema.REQUIRED, "How large, in metres.")
    assert (found["speed"].default, found["speed"].doc) == (2.5, "How fast.")
    assert (found["ink"].default, found["ink"].doc) == (None, "What with.")
    given = {"size": "3", "ink": "red"}
    assert schema.bind(Draw, given, "") == {"size": 3, "speed": 2.5, "ink": {"name": "red", "shade": 1}}


def test_other_keyword_arguments_are_no_options() -> None:
    def factory(one: int = 1, *rest: int, **others: int) -> None: ...

    assert list(schema.options(factory)) == ["one"]


def test_an_unknown_option_is_told_what_was_meant_and_what_exists() -> None:
    with pytest.raises(ConfigError) as error:
        schema.bind(Draw, {"size": 1, "sped": 2}, "ranker")
    assert str(error.value) == (
        "ranker.sped: no such option of Draw.\n  Did you mean: speed\n  Known:        size, speed, ink"
    )


def test_a_missing_option_is_told_what_it_is_for() -> None:
    with pytest.raises(ConfigError) as error:
        schema.bind(Draw, {}, "ranker")
    assert str(error.value) == "ranker.size: Draw needs this option.\n  What to do:   How large, in metres."
    assert "size" not in schema.bind(Draw, {}, "ranker", provided=["size"])


@pytest.mark.parametrize(("annotation", "value", "expected"), [
    (float, 1, 1.0),
    (float, "1e-4", 1e-4),
    (int, "3", 3),
    (int, 3.0, 3),
    (str, 7, "7"),
    (str | float, 1.1, 1.1),
    (dict[str, Any], {"a": 1.1}, {"a": 1.1}),
    (list[str], ["a", 2024], ["a", "2024"]),
    (Annotated[int, {"x": 1}], 3, 3),
    (list[Annotated[int, {"x": 1}]], [3], [3]),
    (str, "learned", "learned"),
    (Literal["feature", "learned"], "learned", "learned"),
    (Literal[16, 32] | Literal["bf16"] | None, "bf16", "bf16"),
    (Literal[16, 32] | Literal["bf16"] | None, 16, 16),
    (bool, True, True),
    (bool | Literal["warn"], True, True),
    (int | None, None, None),
    (int | None, 4, 4),
    (Annotated[Node, COLOURS] | None, "none", None),
    (str | None, "none", "none"),
    (int | float | None, 0.5, 0.5),
    (list[int], ["1", 2], [1, 2]),
    (list[int] | None, None, None),
    (tuple[float, float], [0, "0.5"], (0.0, 0.5)),
    (dict[str, Any], {"a": [1]}, {"a": [1]}),
    (Any, object, object),
])  # fmt: skip
def test_values_become_what_the_annotation_says(annotation: Any, value: Any, expected: Any) -> None:
    converted = bound(annotation, value)
    assert converted == expected and type(converted) is type(expected)


@pytest.mark.parametrize(("annotation", "value", "message"), [
    (int, "two", "here.option: expected int, got 'two'"),
    (int, 1.5, "here.option: expected int, got 1.5"),
    (int, None, "here.option: expected int, got null"),
    (int, True, "here.option: expected int, got true."),
    (float, False, "here.option: expected float, got false."),
    (int | None, True, "here.option: expected int, got true."),
    (int | float | None, True, "here.option: expected int | float | null, got true."),
    (list[int] | str | int, False, "here.option: expected list[int] | str | int, got false."),
    (list[int], [1, True], "here.option[1]: expected int, got true."),
    (list[int], "12", "here.option: expected list[int], got '12'"),
    (tuple[float, float], [1], "here.option: expected tuple[float, float], got [1]"),
    (bool, "maybe", "here.option: expected bool, got 'maybe'"),
    (str, 1.1, "here.option: expected a text, got the number 1.1, which may differ from the digits that you wrote.\n"
     "  What to do:   quote it: \"1.10\", in a command 'key=\"1.10\"'"),
    (str | None, 12000.0, "here.option: expected a text, got the number 12000.0,"),
    (list[str], ["a", 1.5], "here.option[1]: expected a text, got the number 1.5,"),
    (dict[str, str], {"a": 1.5}, "here.option.a: expected a text, got the number 1.5,"),
    (str | list[str], [1.5], "here.option[0]: expected a text, got the number 1.5,"),
    (Annotated[int, pydantic.Field(gt=0)], 0, "here.option: expected int above 0, got 0."),
    (Annotated[int, Le(9), pydantic.Field(gt=0)], 0, "here.option: expected int above 0 and at most 9, got 0."),
    (Annotated[int, pydantic.Field(multiple_of=2)], 3,
     "here.option: expected int, got 3 (Input should be a multiple of 2)"),
    (Annotated[str, MinLen(3)], "ab", "here.option: expected str, got 'ab' (String should have at least 3 characters)"),
    (Annotated[str, MaxLen(1)], "ab", "here.option: expected str, got 'ab' (String should have at most 1 character)"),
    (Annotated[int, {"x": 1}, Gt(0)], 0, "here.option: expected int above 0, got 0."),
    (str, ["a"], "here.option: expected str, got ['a']"),
    (Literal["cosine", "dot"], "cosin", "here.option: no such choice: 'cosin'.\n  Did you mean: cosine\n"),
    (Literal[16] | Literal["bf16", "16"] | None, "bf_16",
     "here.option: no such choice: 'bf_16'.\n  Did you mean: bf16\n  Known:        16, bf16"),
    (Literal["a", 1], None, "here.option: no such choice: null."),
])  # fmt: skip
def test_a_value_that_does_not_fit_is_refused_by_its_path(annotation: Any, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        bound(annotation, value)
    assert str(error.value).startswith(message)


def test_options_that_are_dataclasses_or_nodes_are_checked_all_the_way_down() -> None:
    expected = {"width": 2.0, "ink": {"name": "red", "shade": 5}, "tags": ["new"]}
    assert bound(Pen, {"width": 2, "ink": {"name": "red", "shade": "5"}}) == expected
    assert bound(Pen | None, {}, None)["ink"] == {"name": "red", "shade": 1}
    assert bound(Pen, Pen(width=3))["width"] == 3.0
    assert bound(list[Annotated[Node, COLOURS]], ["red", "blue"]) == [{"name": "red", "shade": 1}, {"name": "blue"}]
    for value, message in [
        ({"widht": 2}, "here.option.widht: no such option of Pen."),
        ({"ink": {"name": "red", "shad": 2}}, "here.option.ink.shad: no such option of red."),
        ({"ink": "rde"}, "here.option.ink: 'rde' is not among the colours."),
        ("thick", "here.option: expected options of Pen, got 'thick'."),
    ]:
        with pytest.raises(ConfigError) as error:
            bound(Pen, value)
        assert str(error.value).startswith(message)
    assert bound(dict[str, Pen], {"mine": {"width": 2, "ink": {"name": "red", "shade": "5"}}}) == {"mine": expected}
    with pytest.raises(ConfigError, match=r"here.option.mine.widht: no such option of Pen."):
        bound(dict[str, Pen], {"mine": {"widht": 2}})


def test_a_default_that_is_a_dataclass_or_a_node_is_spelled_out() -> None:
    def factory(pen: Pen = Pen(), inks: list[Annotated[Node, COLOURS]] = ["blue"]) -> None: ...  # noqa: B006

    expected = {"pen": {"width": 1.0, "ink": {"name": "red", "shade": 1}, "tags": ["new"]}, "inks": [{"name": "blue"}]}
    assert schema.bind(factory, {}, "") == expected
    assert schema.bind(factory, expected, "") == expected


def test_options_without_a_name_are_those_of_the_default() -> None:
    annotations = [Annotated[Node, COLOURS], Annotated[Node, COLOURS] | None]
    for annotation in annotations:
        assert bound(annotation, {"shade": 3}, default="red") == {"name": "red", "shade": 3}
        assert bound(annotation, {"name": "blue"}, default="red") == {"name": "blue"}
        with pytest.raises(ConfigError, match=r"here\.option\.shade: no such option of blue"):
            bound(annotation, {"shade": 3}, default="blue")
        with pytest.raises(ConfigError, match=r"here\.option\.name: missing: which of the colours\?"):
            bound(annotation, {"shade": 3})


def test_options_without_a_name_keep_what_the_default_sets() -> None:
    @COLOURS.register("green")
    def green(shade: int = 1, gloss: float = 0.0) -> str:
        return f"green {shade} {gloss}"

    default = {"name": "green", "gloss": 0.5}
    assert bound(Annotated[Node, COLOURS], {"shade": 3}, default=default) == {"name": "green", "shade": 3, "gloss": 0.5}
    assert bound(Annotated[Node, COLOURS], {"name": "red"}, default=default) == {"name": "red", "shade": 1}
    assert default == {"name": "green", "gloss": 0.5}


def test_instantiate_gives_a_factory_the_dataclasses_it_asks_for() -> None:
    @dataclass(frozen=True)
    class Desk:
        pen: Pen | None = None

    def factory(desk: Desk, size: int = 1) -> None: ...

    given = schema.bind(factory, {"desk": {"pen": {"width": 4}}}, "")
    made = schema.instantiate(factory, given)
    assert made == {"desk": Desk(Pen(4.0, {"name": "red", "shade": 1}, ["new"])), "size": 1}
    assert schema.instantiate(factory, schema.bind(factory, {"desk": {}}, ""))["desk"] == Desk()


@pytest.mark.parametrize(("annotation", "words"), [
    (int, "int"),
    (int | None, "int | null"),
    (Literal["linear", "cosine"], "linear | cosine"),
    (Annotated[Node, COLOURS], "one of colours"),
    (list[Annotated[Node, COLOURS]] | None, "list[one of colours] | null"),
    (Annotated[int, "metres"], "int"),
    (tuple[float, float], "tuple[float, float]"),
    (Pen, "Pen"),
])  # fmt: skip
def test_types_are_described_as_a_reader_of_yaml_would_name_them(annotation: Any, words: str) -> None:
    assert schema.describe(annotation) == words


def test_the_docs_of_an_option_are_found_in_the_class_or_its_init() -> None:
    class Second:
        """Only a line."""

        def __init__(self, one: int = 1, *, two: str = "2") -> None:
            """Build it.

            Args:
                one: The first: of two.
                two: The second,
                    folded.

            Raises:
                ValueError: Never.
            """

    assert schema.first_line(Second) == "Only a line."
    assert {name: option.doc for name, option in schema.options(Second).items()} == {
        "one": "The first: of two.",
        "two": "The second, folded.",
    }
    undocumented: Callable[..., None] = lambda one: None  # noqa: E731
    assert schema.first_line(undocumented) == "" and schema.argument_docs(undocumented) == {}


def test_a_class_documents_only_what_it_adds_to_its_parents_or_changes() -> None:
    class Parent:
        """A parent.

        Args:
            one: Of the parent,
                folded.
            two: Of the parent.
        """

    class Silent(Parent):
        pass

    class Child(Silent):
        """A child.

        Args:
            two: Of the child.
            three: Of the child.
        """

    inherited = {"one": "Of the parent, folded.", "two": "Of the parent."}
    assert schema.argument_docs(Silent) == inherited
    assert schema.argument_docs(Child) == {**inherited, "two": "Of the child.", "three": "Of the child."}


def test_an_annotation_that_names_nothing_is_refused_with_file_and_line() -> None:
    def painted(size: "Sise") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    class Painter:
        def __init__(self, size: "1 +") -> None: ...  # type: ignore[syntax]

    for factory, problem in ((painted, "NameError: name 'Sise' is not defined"), (Painter, "SyntaxError: ")):
        target: Any = factory.__init__ if isinstance(factory, type) else factory
        with pytest.raises(ConfigError) as error:
            schema.options(factory)
        place = f"{__file__}, line {target.__code__.co_firstlineno}: an annotation of "
        assert str(error.value).startswith(f"{place}{factory.__qualname__} cannot be read: {problem}")
        assert error.value.cure == "import what it names; not only under `if TYPE_CHECKING`"
