"""PoolRankingData: queries over one pool of candidates; the base of all datamodules over a pool."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from rich.console import Console
from torch import Tensor

from datamodules.base import RankingData
from datamodules.epoch_loader import EpochLoader
from datamodules.pools.judgements import Judgements
from datamodules.pools.pool_batches import EvaluationPoolBatches
from datamodules.pools.token_lists import TokenLists
from datamodules.splits import SPLIT_CODES, assign_splits, draw_splits
from ranking.batch import Batch
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_data import Reading, Tokenize
from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.joined_pool import JoinedPool
from registry import ConfigError

STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ()}


class PoolRankingData(RankingData):
    """The queries of a pool in their splits, each judged once in validation and test.

    Args:
        path: The path of the candidate pool.
        exclude_history: Remove the candidates in a query's history from what it ranks.
        own_lists: Whether each query ranks its own list of candidates instead of the whole pool.
        split_shares: Shares of train, val and test, for queries that the pool does not assign to a split.
        eval_batch_size: Queries per step and process in validation and test.
        verify: Check the pool's hashes before using it.
        num_labelled: Number of queries to draw for training and validation together; None for all. If no query is
            for the test, the others are.
        seed: The seed of this draw.
        mixed_with: Folders of other pools whose candidates are ranked as well.

    Raises:
        ConfigError: If a split has no query with a right candidate.
        StoreError: If the pool cannot be opened.
    """

    batch_type: ClassVar[type[Batch]] = PoolBatch

    def __init__(
        self,
        path: str,
        *,
        exclude_history: bool,
        own_lists: bool,
        split_shares: tuple[float, float, float],
        eval_batch_size: int,
        verify: bool,
        num_labelled: int | None = None,
        seed: int = 0,
        mixed_with: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.pool = CandidatePool.open(Path(path), verify=verify)
        if mixed_with:
            self.pool = JoinedPool([self.pool, *(CandidatePool.open(each, verify=verify) for each in mixed_with)])
        self._own, self._eval_batch_size = own_lists, eval_batch_size
        self._judgements = Judgements(self.pool, exclude_history)
        self._splits = self._assign_splits(split_shares, num_labelled, seed)
        self._tokens: dict[str, TokenLists] = {}
        self._candidate_tokens: TokenLists | None = None
        self._history: TokenLists | None = None
        self._read_by: Any = None

    @property
    def facts(self) -> dict[str, Any]:
        """Facts about the data that set options of the ranker: the size of the vectors and of the pool."""
        return {"feature_dim": self.pool.feature_dim, "num_items": self.pool.num_candidates}

    @property
    def encoder(self) -> dict[str, Any] | None:
        """The model that computed the pool's vectors."""
        return self.pool.encoder

    def steps(self, split: str) -> int:
        """How many batches validation or test has in one process."""
        return -(-self.num_queries(split) // self._eval_batch_size)

    def num_queries(self, split: str) -> int:
        """How many queries a split has."""
        return len(self._splits[split])

    def queries(self, split: str) -> Int[Tensor, " Q"]:
        """The numbers of a split's queries in the pool."""
        return self._splits[split]

    def query_id(self, query: int) -> str:
        """The query's id, for messages and result files."""
        return self.pool.queries.id(query)

    def query_text(self, query: int) -> str:
        """The query's text, for display."""
        return self.pool.queries.text(query)

    def candidate_id(self, row: int) -> str:
        """The candidate's id."""
        return self.pool.id(row)

    def candidate_text(self, row: int) -> str:
        """The candidate's text, for display."""
        return self.pool.text(row)

    def restrictions(self, queries: Int[Tensor, " Q"]) -> tuple[Int[Tensor, "Q L"] | None, Int[Tensor, "R 2"] | None]:
        """The limits on the candidates that queries rank.

        Returns:
            The rows of each query's own list, padded with -1, or None if queries rank the whole pool; and pairs (place
            in `queries`, row) that are not candidates, or None.
        """
        if self._own:
            return self._judgements.own(queries), None
        return None, self._judgements.removed(queries)

    def own_sizes(self) -> Int[Tensor, " Q"]:
        """How many candidates the own list of each query has that is used.

        Raises:
            ConfigError: If a query has none.
        """
        used = torch.cat(list(self._splits.values()))
        sizes = self.pool.queries.own_offsets.diff()[used]
        if bool((lacking := sizes == 0).any()):
            first = self.query_id(int(used[lacking][0]))
            problem = f"{int(lacking.sum())} of {len(used)} queries have no list of their own, such as {first}."
            raise ConfigError("datamodule.candidates", problem, cure="candidates=pool")
        return sizes

    def setup(self, stage: str) -> None:
        """Read the inputs that the ranker needs of the queries, once for each split."""
        assert self.trainer is not None
        self.read_for(self.trainer.lightning_module, *STAGES[stage])

    def check_ranker(self, ranker: Any) -> None:
        """Refuse a ranker that reads histories if the pool has none, or that needs vectors if the pool has none.

        Raises:
            ConfigError: In these cases.
        """
        if ranker.reading().histories and not len(self.pool.queries.history):
            problem = f"{ranker.name} reads histories of items, and the queries of {self.pool.path} have none."
            raise ConfigError("ranker.name", problem, cure="a pool of a recommendation data set, or another ranker")

    def read_for(self, ranker: Any, *splits: str) -> None:
        """Read the inputs that a ranker and its references need of the queries of these splits.

        Args:
            ranker: Its `reading()` returns which inputs it needs.
            splits: The splits of the queries.
        """
        if ranker is not self._read_by:
            self._tokens, self._candidate_tokens, self._history, self._read_by = {}, None, None, ranker
        reading: Reading = ranker.reading()
        for split in splits:
            if split not in self._tokens:
                if split != "train" or reading.sequences is None:
                    self._tell_long_histories(split, reading.longest_history)
                what, text = f"{split} queries", self.pool.queries.text
                self._tokens[split] = self._read(what, self._splits[split], text, reading.queries, reading)
        if splits and reading.candidates is not None and self._candidate_tokens is None:
            every = torch.arange(self.pool.num_candidates)
            self._candidate_tokens = self._read("candidates", every, self.pool.text, reading.candidates, reading)
        if any(each.reading().histories for each in (ranker, *ranker.references.values())):
            known = self.pool.queries
            self._history = TokenLists(torch.arange(known.num_queries), known.history, known.history_offsets)

    def val_dataloader(self) -> EpochLoader:
        """Each validation query once."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> EpochLoader:
        """Each test query once."""
        return self._evaluation_loader("test")

    def _tell_long_histories(self, split: str, longest: int | None) -> None:
        queries = self._splits[split]
        num_long = int((self.pool.queries.history_offsets.diff()[queries] > longest).sum()) if longest else 0
        if num_long and self.process()["rank"] == 0:
            counts = f"{num_long:,} of {len(queries):,} {split} queries have"
            message = f"{counts} histories of more than {longest} items: the ranker reads the latest"
            Console(stderr=True).print(message, style="yellow", soft_wrap=True)

    def _read(
        self, what: str, index: Int[Tensor, " n"], text: Callable[[int], str], tokenize: Tokenize | None, by: Reading
    ) -> TokenLists:
        """Tokenize texts and print how many were cut; no tokens if the ranker does not read these texts."""
        if tokenize is None:
            return TokenLists(index, torch.empty(0, dtype=torch.int32), torch.zeros(len(index) + 1, dtype=torch.int64))
        cut = by.num_cut()
        try:
            tokens = TokenLists.read(index, text, tokenize)
        except ValueError as error:
            raise ConfigError(str(self.pool.path), f"{what}: {error}.") from error
        if by.num_cut() > cut and self.process()["rank"] == 0:
            message = f"{by.num_cut() - cut:,} of {len(index):,} {what} are cut: they are too long for the ranker"
            Console(stderr=True).print(message, style="yellow", soft_wrap=True)
        return tokens

    def _evaluation_loader(self, split: str) -> EpochLoader:
        source = EvaluationPoolBatches(
            self.pool,
            self._judgements,
            self._tokens[split],
            own=self._own,
            candidate_tokens=self._candidate_tokens,
            history=self._history,
            batch_size=self._eval_batch_size,
            **self.process(),
        )
        return EpochLoader(source)

    def _assign_splits(
        self, shares: tuple[float, float, float], num_labelled: int | None, seed: int
    ) -> dict[str, Tensor]:
        queries = self.pool.queries
        if not queries.num_queries:
            problem = "the pool has no queries."
            raise ConfigError(str(self.pool.path), problem, cure="build it from a source with queries")
        has_relevant = self._judgements.num_relevant > 0
        split = assign_splits(queries.split, queries.text, shares)
        if num_labelled is not None:
            split = draw_splits(split, has_relevant & queries.judged, shares, num_labelled, seed)
        found = {name: ((split == code) & queries.judged).nonzero().flatten() for name, code in SPLIT_CODES.items()}
        for name, index in found.items():
            if not bool(has_relevant[index].any()):
                counts = ", ".join(f"{key} {len(value)}" for key, value in found.items())
                cure = "more queries, another datamodule.split_shares, or a `split` in the data"
                problem = f"no query with a right candidate for {name} (queries: {counts})."
                raise ConfigError(str(self.pool.path), problem, cure=cure)
        return {**found, "train": found["train"][has_relevant[found["train"]]]}
