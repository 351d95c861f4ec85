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
from ranking.pool_batch import Contexts
from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.files import sha256_of, write_file
from ranking.vectors.partitions import Partitions
from registry import ConfigError

# Of what the digest does not see: what sets are made of, and the k-means of `ranking`.
_VERSION = 2
# Enough of the queries' own lists to know what contexts look like.
_NUM_LISTS = 128


class PoolContexts:
    """What queries are told of a pool: P sets of candidates, the parts of all its splits and then the whole pool.

    The sets of a split are one file, written whole or not at all, in `<pool>.contexts` beside the pool: what was
    computed before, with the same pool, parts, settings and code of the aggregator, is read. Where that folder cannot
    be written, what it lacks is computed each time.

    Args:
        pool: The candidates.
        partitions: Its splits; None for the whole pool alone.
        aggregator: What summarises a set of candidates.
        described: The aggregator's node in full: all that its summaries depend on.
        members: Whether to know which candidate is in which centroid, as `without` must.
        console: Where to show progress; stderr by default.

    Attributes:
        table: The contexts of all parts, in the order of `Partitions.index`, and last that of the whole pool.

    Raises:
        ConfigError: If the aggregator has to, but cannot, say which candidate is in which centroid.
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
        """The table, copied to a device once."""
        if self._on_device.mask.device != device:
            self._on_device = Contexts(*(each.to(device) for each in self.table))
        return self._on_device

    def of_lists(self, lists: Int[Tensor, "B L"]) -> Contexts:
        """The contexts of lists of rows, -1 beyond their ends."""
        vectors = self.pool.features(lists.clamp(min=0).flatten().cpu()).to(lists.device)
        return self._aggregator.summarise(vectors.float().unflatten(0, lists.shape), lists >= 0, 0)

    def of_some_lists(self) -> Contexts | None:
        """Contexts of some of the queries' own lists; None where queries have none."""
        offsets, own = self.pool.queries.own_offsets, self.pool.queries.own
        listed = (offsets.diff() > 0).nonzero().flatten()
        if not len(listed):
            return None
        some = [own[offsets[query] : offsets[query + 1]] for query in listed[:: -(-len(listed) // _NUM_LISTS)].tolist()]
        return self.of_lists(torch.nn.utils.rnn.pad_sequence(some, batch_first=True, padding_value=-1))

    def inside(self, index: Int[Tensor, " B"], rows: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
        """Whether each row is in the set of that number."""
        found = index == len(self.table.mask) - 1
        if self.partitions is not None:
            split, part = index // self.partitions.num_partitions, index % self.partitions.num_partitions
            for each in split[~found].unique().tolist():
                here = (split == each) & (index < len(self.table.mask) - 1)
                found[here] = self.partitions.parts(each, rows[here]) == part[here]
        return found

    def without(self, index: Int[Tensor, " B"], rows: Int[Tensor, " B"]) -> Contexts:
        """The contexts of the sets of those numbers, each without one candidate; one of another set changes nothing.

        Its centroid becomes the mean of the others; the order of the centroids stays.
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
        """The context of one set and, if asked for, the centroid of each candidate and the centroids' sizes."""
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
    """The files of contexts beside a pool, and a bar that shows how far they are."""

    def __init__(self, path: Path, total: int, console: Console | None, problem: str | None) -> None:
        self._path = path
        # Why nothing can be kept.
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
                # The processes of a run come here together: one computes, the others read what it wrote.
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
        """What a file holds; None if it is not there, damaged, or lacks the members."""
        path = self._path / f"{name}.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                written, found = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            self._say(f"{path} is damaged ({error}): its centroids are computed again")
            return None
        # An older version wrote no hash.
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
        """Compute and, where that is possible, keep the contexts of some sets."""
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
    """The hashes of the files of a class and its bases, without what these import; None if one is in no file."""
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
