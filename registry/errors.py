"""ConfigError: a user's mistake: where it is, what is wrong, what was probably meant, and what to do."""

import difflib
import math
from collections.abc import Iterable


class ConfigError(Exception):
    """A mistake in a yaml, an override or a data file; commands print it without a traceback.

    Args:
        path: Where the mistake is: a dotted yaml path such as `ranker.block.num_heads`, or a file.
        problem: What is wrong there, with the value.
        given: What the user wrote; the error suggests the most similar of `known`.
        known: What the user could have written.
        cure: What the user can do.
    """

    def __init__(
        self, path: str, problem: str, *, given: object = None, known: Iterable[object] = (), cure: str | None = None
    ) -> None:
        self.path, self.problem, self.cure, self.file = path, problem, cure, ""
        self.known = list(dict.fromkeys(name if isinstance(name, str) else shown(name) for name in known))
        self.meant = difflib.get_close_matches(str(given), self.known, n=1, cutoff=0.5) if given is not None else []
        super().__init__(path, problem)

    def __str__(self) -> str:
        lines = [": ".join(part for part in (self.file, self.path, self.problem) if part)]
        lines += [f"  Did you mean: {name}" for name in self.meant]
        if self.known:
            lines.append(f"  Known:        {', '.join(self.known)}")
        if self.cure:
            lines.append(f"  What to do:   {self.cure}")
        return "\n".join(lines)


class TakenNameError(ValueError):
    """A component has a name that another one has."""


def shown(value: object) -> str:
    """A value as yaml writes it, with texts in quotes."""
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else repr(value)
