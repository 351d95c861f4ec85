"""Thoughts: what a model thinks before it answers, told from the answer."""


def without_thoughts(text: str) -> str:
    """The answer alone; nothing of thoughts that have no end.

    >>> without_thoughts("<think>Is it 4? No.</think>It is 5.")
    'It is 5.'
    """
    return text.rpartition("</think>")[2].partition("<think>")[0]
