"""ScalingGrid: the validation results of every width and depth of test-time scaling."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from rankers.lranker.scaling.scaling import choose, heat_map


@dataclass(frozen=True)
class ScalingGrid:
    """A metric at W widths and every depth from 0.

    Args:
        metric: The metric's name.
        widths: The width of each row.
        values: The metric's mean over the validation queries.
        num_queries: The number of these queries.
    """

    metric: str
    widths: list[int]
    values: Float[Tensor, "W depths"]
    num_queries: int

    @property
    def chosen(self) -> tuple[int, int]:
        """The width and depth with the best value; at equal values, the cheapest."""
        return choose(self.values, self.widths)

    @property
    def place(self) -> int:
        """The chosen cell, counted row by row."""
        width, depth = self.chosen
        row = self.widths.index(width) if width in self.widths else 0
        return row * self.values.shape[1] + depth

    def draw(self, path: Path) -> None:
        """Write a heat map as a PNG."""
        heat_map(self.values, self.widths, path, self.metric)

    def plain(self) -> dict[str, Any]:
        """The grid as plain values for a json file."""
        width, depth = self.chosen
        values = [[round(value, 6) for value in row] for row in self.values.tolist()]
        return {
            "width": width,
            "depth": depth,
            "metric": self.metric,
            "widths": self.widths,
            "values": values,
            "queries": self.num_queries,
        }
