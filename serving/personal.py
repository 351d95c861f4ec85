"""PersonalRankers: thousands of rankers of one base in one process, each stored by how its weights differ from it."""

import copy
import hashlib
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.func import functional_call

from rankers.base import Ranker, Training
from rankers.checkpoint import hash_of
from ranking.batch import Batch
from ranking.counts import check_count
from ranking.stores.files import StoreError, sync_folder
from registry import ConfigError
from registry.errors import shown
from serving.reranker import Score

P = TypeVar("P", bound="PersonalRankers")


@dataclass(frozen=True)
class _Weight:
    """Where a user's row holds the difference of one weight: whole, or as two factors [m, rank] and [rank, n]."""

    name: str
    shape: torch.Size
    rank: int | None
    start: int
    stop: int


class PersonalRankers:
    """Rankers of many users over one shared base: 2 bytes per weight and user, or fewer with low-rank differences.

    A user's ranker has the weights base + difference, which are made for each batch. The base is copied, so training it
    on does not change what the users' rankers are.

    Args:
        base: The ranker that all users' rankers were trained from.
        rank: Store the difference of each matrix by its largest `rank` singular values and vectors (the best
            approximation of this rank, Eckart and Young 1936); None for the whole difference. A matrix of which factors
            would be larger is stored whole.

    Raises:
        ValueError: If the rank is not a positive integer, or the base has no weights, or weights of another number
            format than float32.
    """

    def __init__(self, base: Ranker[Any], rank: int | None = None) -> None:
        if rank is not None:
            check_count("rank", rank)
        self.base, self.rank = copy.deepcopy(base).eval(), rank
        self._weights = list(_layout(base.state_dict(), rank))
        if not self._weights:
            raise ValueError(f"{base.name} has no weights, so users' rankers cannot differ from it")
        self._rows: dict[str, Float[Tensor, " S"]] = {}
        self._lock = threading.Lock()

    @property
    def users(self) -> list[str]:
        """The users, in the order in which they were added."""
        return list(self._rows)

    @property
    def bytes_per_user(self) -> int:
        """The size of a user's difference."""
        return 2 * self._weights[-1].stop

    @cached_property
    def base_sha256(self) -> str:
        """The sha256 of the weights of the base and of its options, without those of training."""
        known = {"weights": hash_of(self.base), "options": _options(self.base)}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def add(self, user: str, ranker: Ranker[Any]) -> float:
        """Store a user's ranker; an earlier one of this user is replaced.

        Args:
            user: Any text.
            ranker: A ranker with the options and encoder of the base, such as a run with `init_from` makes.

        Returns:
            |stored - true| / |true| of the difference, in the Frobenius norm over all weights: about 2e-4 for whole
            differences, and what the rank leaves out for others; 0 for a ranker that is equal to the base.

        Raises:
            ValueError: If the ranker has other options, another encoder or weights of other names or shapes than the
                base, if a weight is not finite, or if float16 cannot hold a difference.
        """
        self._check(ranker)
        before, after = self.base.state_dict(), ranker.state_dict()
        row, lost, size = torch.empty(self._weights[-1].stop, dtype=torch.float16), 0.0, 0.0
        for weight in self._weights:
            true = after[weight.name].double().cpu() - before[weight.name].double().cpu()
            if not torch.isfinite(true).all():
                raise ValueError(f"the ranker of user {user!r} has a weight that is not finite: {weight.name}")
            row[weight.start : weight.stop] = _stored(true, weight.rank)
            kept = _difference(row[weight.start : weight.stop].double(), weight)
            lost, size = lost + float((kept - true).square().sum()), size + float(true.square().sum())
        if not torch.isfinite(row).all():
            raise ValueError(f"the weights of user {user!r} differ from the base by more than float16 can hold")
        self._rows[user] = row
        return math.sqrt(lost / size) if size else 0.0

    def remove(self, user: str) -> None:
        """Forget a user."""
        del self._rows[self._known(user)]

    def difference(self, user: str) -> bytes:
        """A user's difference as bytes, for `restore`.

        Raises:
            ValueError: If the user is unknown.
        """
        return self._rows[self._known(user)].numpy().tobytes()

    def restore(self, user: str, difference: bytes) -> None:
        """Store what `difference` returned; an earlier ranker of this user is replaced.

        Args:
            user: Any text.
            difference: Of a user of the same base, with the same rank.

        Raises:
            ValueError: If the difference is that of another base or rank, as far as its size tells.
        """
        if len(difference) != self.bytes_per_user:
            raise ValueError(f"{len(difference):,} bytes, and a user of this base has {self.bytes_per_user:,}")
        self._rows[user] = torch.frombuffer(bytearray(difference), dtype=torch.float16)

    def weights(self, user: str) -> dict[str, Tensor]:
        """A user's weights, by name, on the device of the base."""
        return self._with(self._rows[self._known(user)])

    def score(self, user: str, batch: Batch) -> Float[Tensor, "B K"]:
        """Score the candidates of a batch by a user's ranker.

        Raises:
            ValueError: If the user is unknown.
        """
        return self.ranker(user)(batch)

    def ranker(self, user: str) -> Score:
        """What scores batches by a user's ranker as it is now, whatever is done to the user afterwards.

        Raises:
            ValueError: If the user is unknown.
        """
        return partial(self._score, self._rows[self._known(user)])

    @torch.inference_mode()
    def _score(self, row: Float[Tensor, " S"], batch: Batch) -> Float[Tensor, "B K"]:
        # For the time of the call the base itself has the user's weights.
        with self._lock:
            return functional_call(self.base, self._with(row), (batch,))

    def _with(self, row: Float[Tensor, " S"]) -> dict[str, Tensor]:
        before = self.base.state_dict()
        return {
            weight.name: before[weight.name]
            + _difference(row[weight.start : weight.stop].to(before[weight.name].device), weight)
            for weight in self._weights
        }

    def save(self, path: str | Path) -> None:
        """Write all differences into one safetensors file, under a temporary name that is then changed.

        Raises:
            StoreError: If the file cannot be written; an earlier one is kept.
        """
        path = Path(path)
        temporary = path.with_name(path.name + ".tmp")
        rows = torch.stack([*self._rows.values()]) if self._rows else torch.empty(0, self._weights[-1].stop).half()
        metadata = {
            "users": json.dumps(self.users),
            "rank": json.dumps(self.rank),
            "base": hash_of(self.base),
            "options": json.dumps(_options(self.base)),
        }
        try:
            save_file({"differences": rows}, temporary, metadata={**metadata, "sha256": _hash(metadata, rows)})
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            problem = f"cannot be written: {error}."
            raise StoreError(str(path), problem, cure="make room or choose another file, then save again") from error

    @classmethod
    def load(cls: type[P], path: str | Path, base: Ranker[Any]) -> P:
        """Read a file of `save`.

        Args:
            path: The file.
            base: The base that the users were added to.

        Raises:
            ConfigError: If the file is missing, damaged or not of this kind, or belongs to another base.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                rows = file.get_tensor("differences")
            users, rank, options = (json.loads(metadata[name]) for name in ("users", "rank", "options"))
            whole = metadata.pop("sha256") == _hash(metadata, rows)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            problem = f"not a file of personal rankers: {error}."
            raise ConfigError(str(path), problem, cure="give a file that PersonalRankers.save wrote") from error
        if not whole:
            raise ConfigError(str(path), "damaged: its content does not match its sha256.", cure="copy it again")
        problem = _difference_of_options(options, json.loads(json.dumps(_options(base))))
        if problem is None and (of := metadata["base"]) != (found := hash_of(base)):
            problem = f"weights with the sha256 {of}, and this base {found}"
        if problem is not None:
            cure = "load the base that the users were added to"
            raise ConfigError(str(path), f"belongs to a base with {problem}.", cure=cure)
        loaded = cls(base, rank)
        loaded._rows = dict(zip(users, rows, strict=True))
        return loaded

    def _known(self, user: str) -> str:
        if user not in self._rows:
            raise ValueError(f"no user {user!r} among {len(self._rows):,}")
        return user

    def _check(self, ranker: Ranker[Any]) -> None:
        if (problem := _difference_of_options(_options(ranker), _options(self.base))) is not None:
            raise ValueError(f"the ranker has {problem}: a user's ranker is trained from the base")
        shapes = ({name: weight.shape for name, weight in each.state_dict().items()} for each in (self.base, ranker))
        if next(shapes) != next(shapes):
            raise ValueError("the ranker has other weights than the base: a user's ranker is trained from the base")


def _options(ranker: Ranker[Any]) -> dict[str, Any]:
    """What a user's ranker has in common with the base: all options but those of training, and the encoder."""
    description = ranker.description()
    options = description["ranker"] | {"encoder": description["encoder"]}
    return {name: value for name, value in options.items() if name not in _TRAINING}


def _difference_of_options(one: Mapping[str, Any], base: Mapping[str, Any]) -> str | None:
    """The first option in which something differs from a base, with both values; None if there is none."""
    for option in {**base, **one}:
        if one.get(option) != base.get(option):
            return f"{option} {shown(one.get(option))}, and this base {shown(base.get(option))}"
    return None


def _hash(metadata: Mapping[str, str], rows: Float[Tensor, "U S"]) -> str:
    """The sha256 of what a file says and of its numbers."""
    content = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    content.update(rows.contiguous().numpy().data)
    return content.hexdigest()


_TRAINING = set(Training.__annotations__)


def _layout(weights: Mapping[str, Tensor], rank: int | None) -> Iterator[_Weight]:
    """The place of each weight in a user's row."""
    start = 0
    for name, weight in weights.items():
        if weight.dtype != torch.float32:
            raise ValueError(f"the base has to be in float32, and its weight {name} is in {weight.dtype}")
        factors = None if rank is None or weight.dim() != 2 else rank * sum(weight.shape)
        size, of = (weight.numel(), None) if factors is None or factors >= weight.numel() else (factors, rank)
        yield _Weight(name, weight.shape, of, start, start + size)
        start += size


def _stored(difference: Float[Tensor, "..."], rank: int | None) -> Float[Tensor, " S"]:
    """The numbers to store for a weight's difference; both factors get the root of the singular values."""
    if rank is None:
        return difference.flatten()
    left, values, right = torch.linalg.svd(difference, full_matrices=False)
    root = values[:rank].sqrt()
    return torch.cat([(left[:, :rank] * root).flatten(), (root.unsqueeze(1) * right[:rank]).flatten()])


def _difference(stored: Float[Tensor, " S"], weight: _Weight) -> Float[Tensor, "..."]:
    """The difference that these numbers stand for; factors are multiplied in float32 or finer."""
    if weight.rank is None:
        return stored.view(weight.shape)
    left, right = stored.to(torch.promote_types(stored.dtype, torch.float32)).split(
        [weight.shape[0] * weight.rank, weight.rank * weight.shape[1]]
    )
    return left.view(-1, weight.rank) @ right.view(weight.rank, -1)
