"""Texts: what callers and language models give, checked and made fit to be written."""

from typing import Any


def check_texts(name: str, texts: Any) -> None:
    """Refuse a single text, whose letters would be taken for texts, and what is no text.

    Args:
        name: Of the argument.
        texts: What was given for it.

    Raises:
        ValueError: If it is not a list of texts.
    """
    if isinstance(texts, str | bytes):
        raise ValueError(f"{name} is one text, {texts[:40]!r}, and has to be a list of texts: put it in brackets")
    if isinstance(texts, dict) or not (hasattr(texts, "__getitem__") and hasattr(texts, "__len__")):
        raise ValueError(f"{name} is a {type(texts).__name__}, and has to be a list of texts")
    if (place := next((place for place, text in enumerate(texts) if not isinstance(text, str)), None)) is not None:
        raise ValueError(f"{name}[{place}] is a {type(texts[place]).__name__}, and has to be a text")


def encodable(text: str) -> str:
    """A text without halves of surrogate pairs, which JSON may hold but UTF-8 cannot."""
    return text.encode(errors="replace").decode()
