"""Text, Whole, Decimal, Flag and User: types of the fields of requests; nothing is converted into them."""

from typing import Annotated

from pydantic import AfterValidator, Field


def _encodable(text: str) -> str:
    """Refuse half of a surrogate pair, which JSON may hold but no tokenizer can read."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("the text has half of a surrogate pair")
    return text


def _in_path(name: str) -> str:
    """Refuse what no path can have: what cannot be seen, and the names by which a path turns to another one."""
    if name in (".", ".."):
        raise ValueError("it may not be . or .., which lead to another path")
    if not name.isprintable() or name.strip() != name:
        raise ValueError("it may have no invisible letters, and none that are blank at its ends")
    return name


Text = Annotated[str, Field(strict=True), AfterValidator(_encodable)]
Whole = Annotated[int, Field(strict=True)]
User = Annotated[Text, Field(min_length=1, max_length=200), AfterValidator(_in_path)]
Decimal = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
