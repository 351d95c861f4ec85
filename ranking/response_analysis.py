"""Analysis: how good, how long and how different the responses of a group store are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ranking.figures import line_style, new_figure, write_figure
from ranking.stores.group_store import GroupStore

_LADDER = (1, 2, 5)
_MOST_SHOWN = 10_000


def pass_at_k(num: Int[Tensor, " Q"], right: Int[Tensor, " Q"], k: int) -> Float[Tensor, " Q"]:
    """The chance that k of a query's responses, drawn without replacement, have a right one among them.

    1 - C(n - c, k) / C(n, k), the unbiased estimator of Chen et al. 2021, "Evaluating Large Language Models Trained on
    Code", Eq. 1; nan for queries with fewer than k responses.

    Args:
        num: n, the responses of each query.
        right: c, how many of them are right.
        k: How many are drawn.

    >>> pass_at_k(torch.tensor([5, 5, 2]), torch.tensor([0, 2, 2]), 3)
    tensor([0.0000, 0.9000,    nan], dtype=torch.float64)
    """
    n, c = num.double(), right.double()
    drawn = torch.arange(k, dtype=torch.float64)
    wrong = ((n - c).unsqueeze(1) - drawn).clamp(min=0) / (n.unsqueeze(1) - drawn).clamp(min=1)
    return (1 - wrong.prod(dim=1)).masked_fill(num < k, torch.nan)


@dataclass(frozen=True)
class Analysis:
    """What there is to say of the valid responses in a store; Q queries have S responses with a label in all.

    Args:
        num: Labelled responses of each query.
        right: How many of them are right, that is have a label above 0.
        lengths: Of each response, in tokens where they are known, else in characters.
        unit: Of the lengths.
        repeated: How many responses are the same, to the letter, as one before them in their query.
        empty: How many responses have no text but blanks.
        unlabelled: How many responses have no label.
    """

    num: Int[Tensor, " Q"]
    right: Int[Tensor, " Q"]
    lengths: Int[Tensor, " N"]
    unit: str
    repeated: int
    empty: int
    unlabelled: int

    @classmethod
    def of(cls, store: GroupStore) -> "Analysis":
        """Look at every response of a store."""
        group = torch.arange(store.num_groups).repeat_interleave(store.offsets.diff())
        labelled = ~store.label.isnan() & store.valid
        num, right = (
            torch.zeros(store.num_groups, dtype=torch.int64).index_add_(0, group, some.long())
            for some in (labelled, (store.label > 0) & store.valid)
        )
        texts = [store.candidate_text(row) for row in store.candidate[store.valid].tolist()]
        distinct = len(set(zip(group[store.valid].tolist(), texts, strict=True)))
        tokens = None if store.num_tokens is None else store.num_tokens[store.valid]
        known = tokens is not None and bool((tokens >= 0).all())
        lengths = tokens if known and tokens is not None else torch.tensor([*map(len, texts)])
        return cls(
            num,
            right,
            lengths.long(),
            "tokens" if known else "characters",
            repeated=len(texts) - distinct,
            empty=sum(not text.strip() for text in texts),
            unlabelled=int((~labelled & store.valid).sum()),
        )

    @property
    def ks(self) -> list[int]:
        """1, 2, 5, 10, ... up to what every query with labels has."""
        there = self.num[self.num > 0]
        most = int(there.min()) if len(there) else 0
        ladder = [step * 10**power for power in range(len(str(most))) for step in _LADDER]
        return sorted({k for k in ladder if k < most} | ({most} if most else set()))

    def pass_at(self, k: int) -> float:
        """Pass@k, the mean over queries that have labels."""
        there = self.num > 0
        return float(pass_at_k(self.num[there], self.right[there], k).mean())

    def results(self) -> dict[str, Any]:
        """Everything as plain values for a json file."""
        cuts = torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64)
        both = (self.right > 0) & (self.right < self.num)
        return {
            "queries": len(self.num),
            "responses": len(self.lengths),
            "unlabelled": self.unlabelled,
            "queries_with_right_and_wrong": int(both.sum()),
            "pass_at": {str(k): self.pass_at(k) for k in self.ks},
            f"{self.unit}_quartiles": torch.quantile(self.lengths.double(), cuts).tolist(),
            "repeated": self.repeated,
            "empty": self.empty,
        }

    def tables(self) -> dict[str, tuple[list[str | int], list[Any]]]:
        """Column names and rows of each table that a logger shows, by its name."""
        cuts = torch.linspace(0, 1, 11, dtype=torch.float64)
        deciles = torch.quantile(self.lengths.double(), cuts).tolist()
        hard = torch.bincount(self.right[self.num > 0], minlength=1).tolist()
        return {
            "responses/pass_at_k": (["k", "pass@k"], [[k, self.pass_at(k)] for k in self.ks]),
            "responses/lengths": (
                ["share", self.unit],
                [list(row) for row in zip(cuts.tolist(), deciles, strict=True)],
            ),
            "responses/right": (["right responses", "queries"], [list(row) for row in enumerate(hard)]),
            "responses/counts": (
                ["responses", "unlabelled", "repeated", "empty"],
                [[len(self.lengths), self.unlabelled, self.repeated, self.empty]],
            ),
        }

    def draw(self, path: Path) -> None:
        """Pass@k, lengths and shares of right responses as a PNG; written whole or not at all.

        Args:
            path: The file.
        """
        figure = new_figure(12.0, 3.6)
        curve, lengths, shares = figure.subplots(1, 3)
        if self.ks:
            curve.plot(self.ks, [self.pass_at(k) for k in self.ks], **line_style(0))
        curve.set(xscale="log", xlabel="k", ylabel="pass@k", ylim=(0, 1), title=f"{len(self.num):,} queries")
        curve.set_xticks(self.ks, labels=[str(k) for k in self.ks])
        curve.minorticks_off()
        shown = self.lengths.clamp(max=_MOST_SHOWN).numpy()
        if len(shown):
            shortest, longest = int(shown.min()), int(shown.max())
            lengths.hist(shown, bins=min(50, longest - shortest + 1), range=(shortest - 0.5, longest + 0.5))
        lengths.set(xlabel=self.unit, ylabel="responses", title=f"{self.repeated:,} of {len(self.lengths):,} repeated")
        there = self.num > 0
        shares.hist((self.right[there] / self.num[there]).numpy(), bins=20, range=(0, 1))
        shares.set(xlabel="share of right responses", ylabel="queries", title="how hard the queries are")
        write_figure(figure, path)
