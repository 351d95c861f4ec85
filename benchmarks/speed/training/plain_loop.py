"""Plain loop: ListRanker's training in plain PyTorch, to compare ours with."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

Projected = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Group:
    """The data of a step by index: its queries, the rows of their candidates, and the labels."""

    query: Int[Tensor, " B"]
    candidates: Int[Tensor, "B K"]
    labels: Float[Tensor, "B K"]


@dataclass(frozen=True)
class Memory:
    """All vectors in memory, in the stored dtype."""

    queries: Float[Tensor, "Q D"]
    candidates: Float[Tensor, "C D"]


class PlainListRanker(nn.Module):
    """A projection, PyTorch's own Transformer layer, and the cosine.

    Args:
        feature_dim: Size of the vectors.
        weights: The initial weights, from a ListRanker.
    """

    def __init__(self, feature_dim: int, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.project = nn.Linear(feature_dim, 64, bias=False)
        self.block = nn.TransformerEncoderLayer(
            64, nhead=4, dim_feedforward=256, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        ours = {
            "project": "projection.linear",
            "block.self_attn.in_proj_": "blocks.0.query_key_value.",
            "block.self_attn.out_proj": "blocks.0.out",
            "block.linear1": "blocks.0.mlp.expand",
            "block.linear2": "blocks.0.mlp.contract",
            "block.norm1": "blocks.0.norm",
            "block.norm2": "blocks.0.mlp.norm",
        }
        for name, weight in self.named_parameters():
            prefix = next(prefix for prefix in ours if name.startswith(prefix))
            weight.data.copy_(weights[f"layers.{ours[prefix]}{name.removeprefix(prefix)}"])

    def forward(self, query: Float[Tensor, "B d"], candidates: Float[Tensor, "B K d"]) -> Float[Tensor, "B K"]:
        """Scores of projected vectors."""
        vectors = self.block(torch.cat([query.unsqueeze(1), candidates], dim=1))
        return F.cosine_similarity(vectors[:, :1], vectors[:, 1:], dim=-1)


def train(model: PlainListRanker, batches: Iterable[Projected]) -> list[float]:
    """One epoch over batches of projected queries, projected candidates and labels; the loss of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
    losses = []
    for query, candidates, labels in batches:
        target = labels / labels.sum(dim=1, keepdim=True)
        loss = F.kl_div(model(query, candidates).log_softmax(dim=1), target, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def projecting_each_slot(model: PlainListRanker, memory: Memory, steps: Sequence[Group]) -> Iterator[Projected]:
    """The straightforward way: look up every candidate of every group, then project."""
    for step in steps:
        query = model.project(memory.queries[step.query].float())
        yield query, model.project(memory.candidates[step.candidates].float()), step.labels


def projecting_each_row(model: PlainListRanker, memory: Memory, steps: Sequence[Group]) -> Iterator[Projected]:
    """The thrifty way: project every vector that a step needs once, then look up."""
    for step in steps:
        queries, query = step.query.unique(return_inverse=True)
        rows, candidates = step.candidates.unique(return_inverse=True)
        projected = model.project(memory.candidates[rows].float())
        yield model.project(memory.queries[queries].float())[query], projected[candidates], step.labels


class StackedGroups(Dataset[tuple[Tensor, Tensor]]):
    """The ordinary way: one item is one group's features, stacked, and its labels."""

    def __init__(self, memory: Memory, steps: Sequence[Group], dtype: torch.dtype = torch.float32) -> None:
        self._memory, self._dtype = memory, dtype
        self._query = torch.cat([step.query for step in steps]).tolist()
        self._candidates = torch.cat([step.candidates for step in steps]).tolist()
        self._labels = torch.cat([step.labels for step in steps])

    def __len__(self) -> int:
        return len(self._query)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        vectors = self.vectors(self._query[place], self._candidates[place])
        return torch.stack(vectors).to(self._dtype), self._labels[place]

    def vectors(self, query: int, candidates: list[int]) -> list[Tensor]:
        """The vectors of a query and of some candidates."""
        return [self._memory.queries[query], *(self._memory.candidates[row] for row in candidates)]

    def in_batches(self, batch_size: int) -> DataLoader[tuple[Tensor, Tensor]]:
        """Batches made by two worker processes."""
        return DataLoader(self, batch_size, num_workers=2)


class StackedFromFiles(StackedGroups):
    """The ordinary way with a file for each query, which has the vectors of the query and all its responses."""

    def __init__(self, memory: Memory, steps: Sequence[Group], folder: Path) -> None:
        super().__init__(memory, steps)
        self._folder, self._responses = folder, len(memory.candidates) // len(memory.queries)
        for query, responses in enumerate(memory.candidates.split(self._responses)):
            torch.save(torch.cat([memory.queries[query : query + 1], responses]), folder / f"{query}.pt")

    def vectors(self, query: int, candidates: list[int]) -> list[Tensor]:
        """A query's vector and those of some candidates."""
        stored = torch.load(self._folder / f"{query}.pt")
        return [stored[0], *(stored[1 + row - query * self._responses] for row in candidates)]


def projecting_stacked(model: PlainListRanker, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Projected]:
    """Project stacked features."""
    for features, labels in batches:
        projected = model.project(features.float())
        yield projected[:, 0], projected[:, 1:], labels
