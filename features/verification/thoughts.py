"""Thoughts: separates a model's thoughts from its answer."""


def without_thoughts(text: str) -> str:
    """The answer without thoughts; thoughts without an end tag are removed, too.

    >>> without_thoughts("<think>Is it 4? No.</think>It is 5.")
    'It is 5.'
    """
    return text.rpartition("</think>")[2].partition("<think>")[0]
