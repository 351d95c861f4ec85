"""Text and Whole: types of the fields of requests; nothing is converted into them."""

from typing import Annotated

from pydantic import AfterValidator, Field


def _encodable(text: str) -> str:
    """Refuse half of a surrogate pair, which JSON may hold but no tokenizer can read."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("the text has half of a surrogate pair")
    return text


Text = Annotated[str, Field(strict=True), AfterValidator(_encodable)]
Whole = Annotated[int, Field(strict=True)]
