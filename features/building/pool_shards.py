"""Pool shards: encodes chunks of a pool's candidates and writes them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from features.building.chunks import Chunks
from features.texts.pools import PoolQuery, PoolText
from language_models.encoder import Encoder, Report
from ranking.stores.candidate_pool_writer import CandidateShards


@dataclass(frozen=True)
class ShardWork:
    """Encodes chunks of candidates and writes each as the shard with its number.

    Args:
        shards: The writer of shards.
        chunks: The chunks of all candidates.
        encoder: The model that embeds candidates; None if they come with vectors.
    """

    shards: CandidateShards
    chunks: Chunks[PoolText]
    encoder: Encoder | None

    def on(self, device: str) -> "ShardWork":
        """A copy with the encoder on another device; nothing is loaded yet."""
        encoder = dataclasses.replace(self.encoder, device=device) if self.encoder else None
        return dataclasses.replace(self, encoder=encoder)

    def do(self, number: int, report: Report) -> None:
        """Encode and write the shard with this number."""
        chunk = self.chunks[number]
        vectors, cut = embed(chunk, self.encoder, self.encoder.candidate_prompt if self.encoder else "", report)
        self.shards.write_apart(number, [each.id for each in chunk], [each.text for each in chunk], vectors, cut)


def embed(
    texts: Sequence[PoolText] | Sequence[PoolQuery], encoder: Encoder | None, prompt: str, report: Report
) -> tuple[Float[Tensor, "N D"], int]:
    """The vectors of candidates or queries, given or by the encoder, and the number of truncated texts.

    Without an encoder and given vectors, the vectors have size 0.
    """
    if encoder is None:
        report(len(texts), 0, 0)
        return torch.tensor([each.feature or [] for each in texts], dtype=torch.float32), 0
    counts = []

    def note(batch: int, tokens: int, cut: int) -> None:
        counts.append(cut)
        report(batch, tokens, cut)

    return encoder.encode([each.text for each in texts], prompt, note), sum(counts)
