"""Options: the letter of the option that an answer chooses, such as C, (C), C) 12 or option C."""

import re

_OPTION = re.compile(
    r"""\s*(?:\\(?:text|mathrm|textbf|mathbf)\s*\{\s*)*(?:(?:(?:the|la|a|die)\s+)?(?i:option|choice|opci[oó]n|op[cç][aã]o|opzione)\s+)?
    (?:[*$(\[{"'`]*(?P<letter>[A-Z])|\(?(?<=\()(?P<small>[a-z])(?=\)))
    (?:[*$"'`]*(?:\\?[)\]}]|\)\})|[.:](?=\s|$)|[*$"'`]*\s*$|\*\*(?=\s)|\s+[-–—](?=\s)|,(?=\s*(?:i\.e|that\s+is|because|since)))(?!\w)""",
    re.VERBOSE,
)
_ALONE = re.compile(r"\s*(?:\\(?:text|mathrm|textbf)\s*\{\s*)?\(?[A-Z](?:\)|\}|\)\}|[.:](?=\s|$)|\s*$)\s*")


def chosen_option(answer: str) -> str | None:
    """The letter of the option that an answer begins with; None if it begins with none.

    >>> chosen_option("(C) 12"), chosen_option("option C"), chosen_option("(c)"), chosen_option("Cat")
    ('C', 'C', 'C', None)
    """
    found = _OPTION.match(answer)
    return (found["letter"] or found["small"]).upper() if found else None


def is_option(reference: str) -> bool:
    """Whether a reference is the letter of an option and nothing else."""
    return _ALONE.fullmatch(reference) is not None
