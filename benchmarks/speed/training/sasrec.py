"""SASRec: an epoch of training, against cornac's SASRec on the same sequences."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from lightning import seed_everything

from benchmarks.comparison import Comparison, Ratio, in_own_process, in_turns
from benchmarks.peers import require
from benchmarks.speed.training.epoch_clock import EpochClock
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from datamodules.user_sequences import UserSequences
from rankers.recommenders.sasrec import SASRec
from training.checking import build_extractor
from training.memory import keep_freed_memory
from training.trainer import build_trainer

SEED, DIM, BLOCKS, LENGTH, DROPOUT, RATE, BATCH = 0, 64, 2, 50, 0.2, 1e-3, 128


@dataclass(frozen=True)
class Users:
    """Random sequences of items, most of them short.

    Args:
        num_users: Number of users.
        num_items: Number of items that exist; rare ones may occur in no sequence.
        shortest: The shortest sequence.
        mean: How much longer the mean sequence is than the shortest.
    """

    num_users: int = 943
    num_items: int = 1682
    shortest: int = 20
    mean: int = 86


FULL = Users()
LEAST = Users(num_users=24, num_items=40, shortest=5, mean=4)
OURS, DRAWN, THEIRS = "sasrec", "sasrec, 256 drawn negatives", "cornac"
SIZES = f"dim {DIM}, {BLOCKS} blocks, the last {LENGTH} items, float32"
WAYS = {
    OURS: f"an epoch of sasrec with the cross-entropy over all items, {BATCH} sequences a step; {SIZES}",
    DRAWN: "the same with drawn negatives",
    THEIRS: "an epoch of cornac's SASRec, its cross-entropy with 2,048 drawn items, 512 prefixes a step, its defaults",
}
RATIOS = [Ratio(THEIRS, OURS, at_least=2), Ratio(THEIRS, DRAWN)]


def measure(
    data: Path, workload: Workload = MBPP, repeats: int = 5, *, users: Users | None = None, apart: bool = True
) -> Comparison:
    """Train on the same sequences; the second epoch of each way is measured.

    Args:
        data: Folder for the sequences.
        workload: The tiny one stands for few short sequences.
        repeats: How often each way runs.
        users: The sequences; None for those of the workload, of the size of MovieLens 100k.
        apart: Run each way in its own process.

    Raises:
        ConfigError: If the peer is not installed.
    """
    require("cornac")
    users = users or (LEAST if workload == TINY else FULL)
    pool = _write_pool(users, data / f"sasrec-{users.num_users}")
    works = {
        OURS: partial(train_here, pool, None),
        DRAWN: partial(train_here, pool, 256),
        THEIRS: partial(train_with_cornac, pool),
    }
    seconds = in_turns(
        {name: partial(in_own_process, work) for name, work in works.items()} if apart else works, repeats
    )
    sequences = [each for _, each in sequences_of(UserSequences(pool))]
    predicted = sum(len(each) - 1 for each in sequences)
    return Comparison(
        name="sasrec",
        question="how long is an epoch, in which every item of every user is predicted once?",
        ways=WAYS,
        seconds=seconds,
        ratios=RATIOS,
        facts={
            "sequences": vars(users),
            "items to predict": predicted,
            "items per second": {name: round(predicted / min(values)) for name, values in seconds.items()},
        },
    )


def train_here(pool: str, num_negatives: int | None) -> float:
    """Train for two epochs with sasrec; return the seconds of the second one."""
    keep_freed_memory()
    seed_everything(SEED, verbose=False)
    data = UserSequences(pool, batch_size=BATCH, verify=False)
    ranker = SASRec(
        data.pool.num_candidates, dim=DIM, num_blocks=BLOCKS, dropout=DROPOUT, max_length=LENGTH,
        num_negatives=num_negatives, optimizer={"name": "adamw", "lr": RATE, "weight_decay": 0.0},
    )  # fmt: skip
    clock = EpochClock()
    options = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False, "check_val_every_n_epoch": 10}
    build_trainer(options, callbacks=[clock]).fit(ranker, datamodule=data)
    return clock.seconds


def train_with_cornac(pool: str) -> float:
    """Train for two epochs with cornac's SASRec; return the seconds of the second one."""
    from cornac.data import SequentialDataset  # pyright: ignore[reportMissingImports]
    from cornac.models import SASRec as Theirs  # pyright: ignore[reportMissingImports]
    from cornac.models.sasrec import recom_sasrec  # pyright: ignore[reportMissingImports]

    # Not a part of cornac, but the same memory for both.
    keep_freed_memory()
    rows = [
        (user, user, item, place)
        for user, items in sequences_of(UserSequences(pool, verify=False))
        for place, item in enumerate(items)
    ]
    clock = EpochClock()
    recom_sasrec.trange = lambda start, stop, **given: _Epochs(range(start, stop), clock)
    model = Theirs(
        embedding_dim=DIM, num_blocks=BLOCKS, dropout=DROPOUT, max_len=LENGTH, learning_rate=RATE, n_epochs=2, seed=SEED
    )
    model.fit(SequentialDataset.build(rows, fmt="USIT", seed=SEED))
    return clock.seconds


def sequences_of(data: UserSequences) -> Iterator[tuple[int, list[int]]]:
    """The number of each user to learn from, and the rows of the items in the user's sequence."""
    found = data.sequences
    parts = zip(found.index.tolist(), found.offsets[:-1].tolist(), found.offsets[1:].tolist(), strict=True)
    for query, start, end in parts:
        yield int(data.pool.queries.user[query]), found.flat[start:end].tolist()


class _Epochs:
    """The epochs of cornac's progress bar, timed instead of shown."""

    def __init__(self, epochs: range, clock: EpochClock) -> None:
        self._epochs, self._clock = epochs, clock

    def __iter__(self) -> Iterator[int]:
        for epoch in self._epochs:
            self._clock.begin()
            yield epoch
            self._clock.end()

    def set_postfix(self, **shown: float) -> None:
        """Show nothing."""


def _write_pool(users: Users, folder: Path) -> str:
    """A pool of random sequences in which an item is as popular as its row is low."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = torch.Generator().manual_seed(SEED)
    popular = 1 / torch.arange(1, users.num_items + 1, dtype=torch.float64) ** 0.8
    lines = []
    for user in range(users.num_users):
        more = int(-torch.rand((), generator=draw, dtype=torch.float64).log() * users.mean)
        length = min(users.num_items // 2, users.shortest + more)
        items = torch.multinomial(popular, length, generator=draw).tolist()
        lines.append(" ".join([f"u{user}", *(f"i{item}" for item in items)]))
    (folder / "sequences.txt").write_text("\n".join(lines))
    source = {"name": "s3rec", "path": str(folder / "sequences.txt")}
    node = {"name": "candidate_pool", "encoder": None, "path": str(folder / "pool"), "source": source}
    return str(build_extractor(node).run(to_train=True))
