"""PoolContexts: the centroids of a pool, of the parts of its splits, and of lists of its candidates."""

import fcntl
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from jaxtyping import Bool, Int
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from console.progress import WorkProgress, bar_console
from rankers.lranker.aggregators import Aggregator
from ranking.pools.pool_batch import Contexts
from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.files import sha256_of, write_file
from ranking.vectors.partitions import Partitions
from registry import ConfigError

# The version of code that the digest does not cover: how sets are formed, and the k-means of `ranking`.
_VERSION = 2
# The number of queries' own lists to compute sample contexts from.
_NUM_LISTS = 128


class PoolContexts:
    """The contexts of P sets of candidates of a pool: the parts of all its splits, then the whole pool.

    The contexts of each split are saved in one file in the folder `<pool>.contexts` beside the pool; a file is written
    completely or not at all. Later runs read the file if pool, parts, settings and the aggregator's code are the same.
    If the folder cannot be written, each run computes the contexts that are not saved.

    Args:
        pool: The candidates.
        partitions: The pool's splits; None for only the whole pool.
        aggregator: Summarises a set of candidates.
        described: The aggregator's config node with all options, on which its summaries depend.
        members: Whether to record which centroid each candidate is in; `without` needs it.
        console: The console for progress; None for stderr.

    Attributes:
        table: The contexts of all parts, in the order of `Partitions.index`, then that of the whole pool.

    Raises:
        ConfigError: If `members` is set and the aggregator does not know which centroid each candidate is in.
    """

    def __init__(
        self,
        pool: CandidatePool,
        partitions: Partitions | None,
        aggregator: Aggregator,
        described: Mapping[str, Any],
        *,
        members: bool = False,
        console: Console | None = None,
    ) -> None:
        self.pool, self.partitions, self._aggregator = pool, partitions, aggregator
        code = _code_of(type(aggregator))
        whole = {
            "version": _VERSION,
            "aggregator": described,
            "code": code,
            "candidates": pool.manifest["shards"]["candidates"],
        }
        sets: dict[str, list[tuple[Tensor | None, int]]] = {}
        if partitions is not None:
            name = _digest({**whole, **{key: getattr(partitions, key) for key in ("num_partitions", "seed")}})
            for split in range(partitions.num_splits):
                sets[f"{name}-split{split}"] = [
                    (partitions.rows(split, part), hash((partitions.seed, split, part)) % 2**31)
                    for part in range(partitions.num_partitions)
                ]
        sets[f"{_digest(whole)}-whole"] = [(None, 0)]
        path, total = pool.path.parent / f"{pool.path.name}.contexts", sum(map(len, sets.values()))
        problem = f"{type(aggregator).__name__} is defined in no file" if code is None else None
        with _Folder(path, total, console, problem) as folder:
            shape = aggregator.num_centroids, pool.feature_dim
            found = [
                folder.read(name, (len(each), *shape), members)
                or folder.write(name, each, lambda rows, seed: self._summarised(rows, seed, members))
                for name, each in sets.items()
            ]
        self.table = Contexts(*(torch.cat([each[name] for each in found]) for name in Contexts._fields))
        self._on_device = self.table
        if members:
            self._member = torch.stack([each["member"] for each in found])
            self._size = torch.cat([each["size"] for each in found])

    def on(self, device: torch.device) -> Contexts:
        """The table on a device; it is copied only once."""
        if self._on_device.mask.device != device:
            self._on_device = Contexts(*(each.to(device) for each in self.table))
        return self._on_device

    def of_lists(self, lists: Int[Tensor, "B L"]) -> Contexts:
        """The contexts of lists of rows, padded with -1."""
        vectors = self.pool.features(lists.clamp(min=0).flatten().cpu()).to(lists.device)
        return self._aggregator.summarise(vectors.float().unflatten(0, lists.shape), lists >= 0, 0)

    def of_some_lists(self) -> Contexts | None:
        """The contexts of some of the queries' own lists; None if queries have no lists."""
        offsets, own = self.pool.queries.own_offsets, self.pool.queries.own
        listed = (offsets.diff() > 0).nonzero().flatten()
        if not len(listed):
            return None
        some = [own[offsets[query] : offsets[query + 1]] for query in listed[:: -(-len(listed) // _NUM_LISTS)].tolist()]
        return self.of_lists(torch.nn.utils.rnn.pad_sequence(some, batch_first=True, padding_value=-1))

    def inside(self, index: Int[Tensor, " B"], rows: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
        """Whether each row is in the set with the given number."""
        found = index == len(self.table.mask) - 1
        if self.partitions is not None:
            split, part = index // self.partitions.num_partitions, index % self.partitions.num_partitions
            for each in split[~found].unique().tolist():
                here = (split == each) & (index < len(self.table.mask) - 1)
                found[here] = self.partitions.parts(each, rows[here]) == part[here]
        return found

    def without(self, index: Int[Tensor, " B"], rows: Int[Tensor, " B"]) -> Contexts:
        """The contexts of the sets with these numbers, each without one candidate, if the set contains it.

        The candidate's centroid becomes the mean of its other candidates; the order of the centroids does not change.
        """
        centroids, mask = (each[index].clone() for each in self.table)
        split = index // self.partitions.num_partitions if self.partitions else index
        place = (self.inside(index, rows) & (self._member[split, rows] >= 0)).nonzero().flatten()
        member = self._member[split, rows][place].long()
        left = (self._size[index[place], member] - 1).unsqueeze(1)
        total = centroids[place, member] * (left + 1) - self.pool.features(rows[place]).float()
        centroids[place, member] = torch.where(left > 0, total / left.clamp(min=1), 0)
        mask[place, member] = left.squeeze(1) > 0
        return Contexts(centroids, mask)

    def _summarised(self, rows: Int[Tensor, " n"] | None, seed: int, members: bool) -> dict[str, Tensor]:
        """The context of one set and, with `members`, the centroid of each candidate and the centroids' sizes."""
        if not members:
            return self._aggregator.summarise_pool(self.pool, rows, seed)._asdict()
        try:
            context, member = self._aggregator.members(self.pool, rows, seed)
        except NotImplementedError as error:
            raise ConfigError("ranker.exclude_positive", f"{error}.", cure="false, or aggregator=kmeans") from error
        size = member[member >= 0].bincount(minlength=self._aggregator.num_centroids).unsqueeze(0)
        everyone = torch.full((self.pool.num_candidates,), -1, dtype=torch.int16)
        everyone[slice(None) if rows is None else rows] = member.short().cpu()
        return {**context._asdict(), "member": everyone, "size": size}


class _Folder:
    """The files of contexts beside a pool, with a progress bar."""

    def __init__(self, path: Path, total: int, console: Console | None, problem: str | None) -> None:
        self._path = path
        # The reason why no files can be written.
        self._problem, self._told = problem, False
        self._console = console or bar_console()
        self._lock: IO[str] | None = None
        self._bar = WorkProgress(
            total, self._console, doing="Centroids", done="Summarised", unit="sets of candidates", brief=True
        )

    def __enter__(self) -> "_Folder":
        try:
            if self._problem is None:
                self._path.mkdir(exist_ok=True)
                # All processes of a run reach this at the same time: one computes, the others read its files.
                self._lock = (self._path / ".lock").open("w")
                fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            self._problem = f"{self._path} cannot be written ({error.strerror})"
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)
        if self._lock is not None:
            self._lock.close()

    def read(self, name: str, shape: tuple[int, int, int], members: bool) -> dict[str, Tensor] | None:
        """The content of a file; None if it is missing or damaged, or has no members."""
        path = self._path / f"{name}.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                written, found = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            self._say(f"{path} is damaged ({error}): its centroids are computed again")
            return None
        # Files of an older version have no hash.
        if written and written.get("sha256") != _hash_of(found):
            self._say(f"{path} is damaged (its content is not that of its sha256): its centroids are computed again")
            return None
        if "centroids" not in found or found["centroids"].shape != shape or (members and "member" not in found):
            return None
        self._bar.skip(shape[0])
        return found

    def write(
        self, name: str, sets: list[tuple[Tensor | None, int]], summarise: Callable[..., dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Compute the contexts of some sets and, if possible, save them."""
        if self._problem is not None and not self._told:
            self._say(f"{self._problem}: centroids are computed, but not kept")
            self._told = True
        parts = []
        for each in sets:
            parts.append(summarise(*each))
            self._bar.report(1)
        found = {key: torch.cat([part[key].cpu() for part in parts]) for key in parts[0] if key != "member"}
        if "member" in parts[0]:
            found["member"] = torch.stack([part["member"] for part in parts]).amax(dim=0)
        if self._problem is None:
            write_file(self._path / f"{name}.safetensors", save(found, {"sha256": _hash_of(found)}))
        return found

    def _say(self, message: str) -> None:
        self._console.print(message, style="yellow", soft_wrap=True, markup=False, highlight=False)


def _code_of(aggregator: type) -> list[str] | None:
    """The hashes of the source files of a class and its bases, without imports; None if one has no file."""
    classes = aggregator.mro()
    try:
        files = dict.fromkeys(inspect.getfile(each) for each in classes[: classes.index(nn.Module)])
        return [sha256_of(Path(file)) for file in files]
    except (OSError, TypeError):
        return None


def _hash_of(tensors: Mapping[str, Tensor]) -> str:
    content = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return content.hexdigest()


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
