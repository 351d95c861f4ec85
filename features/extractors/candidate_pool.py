"""candidate_pool: builds one large set of candidates with vectors, and the queries that rank it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Int
from rich.console import Console
from torch import Tensor

from console.progress import ReadingProgress, WorkProgress
from features.building.chunks import Chunks, chunks_of
from features.building.extractor import Extractor, build_source
from features.building.pool_shards import ShardWork, embed
from features.building.processes import share_out
from features.texts.equal_texts import DistinctPool
from features.texts.groups import Source
from features.texts.pools import Noting, PoolQuery, PoolSource, PoolText, pool_source
from features.texts.survey import Duplicates, PoolSurvey, Unknown, survey
from language_models.encoder import Encoder
from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.candidate_pool_writer import CandidatePoolWriter
from ranking.stores.files import StoreError
from registry import EXTRACTORS, SOURCES, ConfigError, Node
from registry.ranges import Few, FilePath, Rows

DEFAULT_ENCODER = Encoder()


@EXTRACTORS.register("candidate_pool")
class CandidatePoolExtractor(Extractor):
    """Builds a candidate pool from a source, continues an unfinished pool, or uses a finished one.

    Args:
        source: The source of candidates and queries; all candidates of a source of groups become one pool.
        encoder: The model that embeds candidates and queries; null if the source gives vectors for all of them, or for
            a pool without vectors, which recommenders and text rankers can use.
        path: The folder of the pool; by default `data/<source>-<encoder>-pool-<hash of all settings>`.
        dtype: Number format of the stored vectors.
        chunk_size: Number of texts between two saves; so many are in memory at a time.
        devices: Number of processes that encode the candidates, each on its own GPU if there are GPUs.
        own_lists: Whether the query of a group ranks only the candidates of its group.
        unknown_ids: What to do with ids that are not in the pool: `error` refuses them; `drop` leaves them out of
            histories, and metrics count judged candidates that the pool lacks as never found.
        duplicates: Which candidates with the same text to keep: `keep` keeps all, `drop` only the first. Judgements of
            dropped candidates then count for the first; of several labels, the highest counts.
    """

    opens = CandidatePool
    unit = "candidates"
    can_be_launched = True
    assumed: ClassVar = {"duplicates": "keep"}
    source: PoolSource

    def __init__(
        self,
        source: Annotated[Node, SOURCES],
        encoder: Encoder | None = DEFAULT_ENCODER,
        path: FilePath | None = None,
        dtype: Literal["float16", "bfloat16", "float32"] = "float16",
        chunk_size: Rows = 16384,
        devices: Few = 1,
        own_lists: bool = False,
        unknown_ids: Unknown = "error",
        duplicates: Duplicates = "keep",
    ) -> None:
        super().__init__(pool_source(build_source(source, PoolSource, Source), own_lists=own_lists), path)
        self.encoder, self.dtype, self.chunk_size = encoder, dtype, chunk_size
        self.devices = devices if encoder else 1
        self.unknown_ids: Unknown = unknown_ids
        self.duplicates: Duplicates = duplicates

    @property
    def made_with(self) -> str:
        """The name of the model in the default path, with the word pool."""
        return f"{super().made_with}-pool"

    def settings(self) -> dict[str, Any]:
        """All settings that the content of the pool depends on."""
        encoder = self.encoder.settings() if self.encoder else None
        settings = {"extractor": "candidate_pool", "source": self.source.fingerprint(), "encoder": encoder}
        settings |= {"dtype": self.dtype, "chunk_size": self.chunk_size, "unknown_ids": self.unknown_ids}
        # Pools made before this option existed keep their names.
        return settings if self.duplicates == "keep" else settings | {"duplicates": self.duplicates}

    def items(self) -> Iterator[PoolText]:
        """All candidates."""
        return self.source.candidates()

    def parts(self) -> dict[str, Iterable[object]]:
        """Candidates and queries."""
        return {"candidates": self.items(), "queries": self.source.queries()}

    def judgements(self) -> Iterator[tuple[str, Mapping[str, float]]] | None:
        """The grades of the source; None if duplicates are dropped, whose grades go to the candidate that is kept."""
        if self.duplicates == "drop":
            return None
        return ((query.id, query.relevant or {}) for query in self.source.queries())

    def read_source(self) -> None:
        """Read and check the whole source, as a run does before it builds.

        Raises:
            ConfigError: If the data is wrong, or has no judgements to learn from.
        """
        self._survey(to_train=True)

    def build(self, settings: dict[str, Any], *, to_train: bool) -> Path:
        """Embed and write all candidates and queries."""
        if self.launch and self.devices > 1:
            problem = f"torchrun has started {self.launch.num_processes} processes already."
            raise ConfigError("features.devices", problem, cure="features.devices=1")
        encoder = self.encoder.identity() if self.encoder else None
        found = self._survey(to_train)
        writer = CandidatePoolWriter(
            self.path,
            feature_dim=self.encoder.feature_dim if self.encoder else found.feature_dim,
            dtype=self.dtype,
            settings=settings,
            encoder=encoder,
            source=settings["source"],
        )
        source, num_candidates = self.source, found.num_candidates
        if self.duplicates == "drop":
            source, num_candidates = DistinctPool(source, found.equal), num_candidates - found.equal.count
        with writer, WorkProgress(num_candidates + found.num_queries) as progress:
            build = _Build(self, source, writer, progress)
            build.add_candidates(num_candidates)
            build.add_queries(found.num_queries)
            return writer.finish()

    def _survey(self, to_train: bool) -> PoolSurvey:
        console = Console(stderr=True)
        with ReadingProgress(console) as reading:
            found = survey(
                self.source,
                with_features=self.encoder is None,
                unknown_ids=self.unknown_ids,
                duplicates=self.duplicates,
                report=reading.report,
            )
        if to_train and not found.num_queries:
            cure = "use a source with queries; only python -m features builds a pool without queries"
            raise ConfigError("features.source", "has no query: there is nothing to learn.", cure=cure)
        if found.missing:
            line = "judged candidates are not in the pool: they count as never found. Metrics are also shown without."
            _say(console, f"{found.missing:,} {line}")
        if found.equal.count:
            lead = f"{found.equal.count:,} of {found.num_candidates:,} candidates have the text of another one"
            kept = f"({found.equal.examples}); features.duplicates=drop keeps the first of each."
            dropped = f"and were dropped ({found.equal.examples}); judgements of them count for the first of each."
            _say(console, f"{lead} {dropped if self.duplicates == 'drop' else kept}")
        for note in self.source.notes() if isinstance(self.source, Noting) else ():
            _say(console, note)
        if found.left_out:
            _say(console, f"{found.left_out:,} ids in histories are not in the pool and were left out.")
        if found.without_relevant:
            counts = f"{found.without_relevant:,} of {found.num_queries:,}"
            _say(console, f"{counts} queries have no relevant candidate in the pool.")
        return found


class _Build:
    """One build of a pool; skips everything that an earlier run has written."""

    def __init__(
        self,
        extractor: CandidatePoolExtractor,
        source: PoolSource,
        writer: CandidatePoolWriter,
        progress: WorkProgress,
    ) -> None:
        self.extractor, self.writer, self.progress = extractor, writer, progress
        self.source, self.encoder = source, extractor.encoder
        self.chunk_size = extractor.chunk_size

    def add_candidates(self, total: int) -> None:
        """Encode and write all chunks that are not on disk yet, in one or several processes."""
        work = ShardWork(self.writer.shards, Chunks(self.source.candidates, self.chunk_size), self.encoder)
        done, starts = self.writer.candidate_shards, range(0, total, self.chunk_size)
        self.progress.skip(sum(min(self.chunk_size, total - starts[number]) for number in done))
        missing = [number for number in range(len(starts)) if number not in done]
        devices, folder = min(self.extractor.devices, len(missing)), self.writer.shards.folder
        gpus = self.encoder is not None and self.encoder.device != "cpu"

        def left() -> list[int]:
            self.writer.collect()
            return sorted({*missing} - self.writer.candidate_shards)

        if self.encoder and missing and (launch := self.extractor.launch):
            settings = self.extractor.settings()
            launch.share_out(work, missing, self.progress.report, left, gpus=gpus, settings=settings, kept_in=folder)
        elif self.encoder and devices > 1:
            share_out(work, missing, devices, self.progress.report, gpus=gpus, kept_in=str(folder))
        else:
            for number in missing:
                work.do(number, self._report)
                self.writer.collect()
        self.writer.collect()
        if self.writer.num_candidates != total:
            raise self._changed(f"had {total:,} candidates, but {self.writer.num_candidates:,} when read again")

    def add_queries(self, total: int) -> None:
        """Encode and write all queries that are not on disk yet."""
        count = 0
        for run in chunks_of(self.source.queries(), self.chunk_size):
            count += len(run)
            if count <= self.writer.num_queries:
                self.progress.skip(len(run))
            else:
                self._add_queries(run)
        if count != total:
            raise self._changed(f"had {total:,} queries, but {count:,} when read again")

    def _add_queries(self, run: list[PoolQuery]) -> None:
        vectors, cut = embed(run, self.encoder, self.encoder.query_prompt if self.encoder else "", self._report)
        grades = [query.relevant or {} for query in run]
        label = torch.tensor([label for each in grades for label in each.values()], dtype=torch.float32)
        relevant_offsets, relevant, known = self._rows([list(each) for each in grades])
        sizes = torch.tensor([len(each) for each in grades])
        history_offsets, history, _ = self._rows([query.history for query in run])
        own_offsets, own, _ = self._rows([query.candidates or () for query in run])
        self.writer.add_queries(
            ids=[query.id for query in run],
            texts=[query.text for query in run],
            features=vectors,
            relevant_offsets=relevant_offsets,
            relevant=relevant,
            label=label[known],
            history_offsets=history_offsets,
            history=history,
            own_offsets=own_offsets,
            own=own,
            split=[query.split for query in run],
            judged=torch.tensor([query.relevant is not None for query in run]),
            missing_offsets=torch.nn.functional.pad(sizes.cumsum(0), (1, 0)) - relevant_offsets,
            missing=label[~known],
            users=[query.user or query.id for query in run],
            cut=cut,
        )

    def _rows(
        self, lists: Sequence[Sequence[str]]
    ) -> tuple[Int[Tensor, " starts"], Int[Tensor, " rows"], Bool[Tensor, " ids"]]:
        """The offset of each list, the rows of all ids that are in the pool, and which of the given ids these are."""
        rows = self.writer.rows_of([id for ids in lists for id in ids])
        known = rows >= 0
        if self.extractor.unknown_ids == "error" and not bool(known.all()):
            raise self._changed("names other candidates than at the first reading")
        list_of = torch.arange(len(lists)).repeat_interleave(torch.tensor([len(ids) for ids in lists]))
        sizes = torch.zeros(len(lists), dtype=torch.int64).index_add_(0, list_of, known.long())
        return torch.nn.functional.pad(sizes.cumsum(0), (1, 0)), rows[known], known

    def _report(self, texts: int, tokens: int, cut: int) -> None:
        if self.encoder:
            self.progress.report(texts, tokens, cut)
        else:
            self.progress.skip(texts)

    def _changed(self, problem: str) -> StoreError:
        cure = f"delete {self.writer.partial}, and do not change the data while it is read"
        return StoreError(str(self.writer.partial), f"the source {problem}.", cure=cure)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)
