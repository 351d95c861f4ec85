"""What is wrong in a yaml, an override or a command is one clear error, and nothing is written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import train
from registry import load_config

ABSENT = "tpu" if torch.cuda.is_available() else "gpu"


@pytest.fixture
def refused(
    run_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run train.py on a good yaml that is spoilt, and give the one message that came of it."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str, append: str = "", command: tuple[str, ...] = ("--config", "run.yaml")) -> str:
        path = run_config()
        path.write_text(path.read_text() + append)
        before = sorted(tmp_path.rglob("*"))
        assert train.main([*command, *overrides]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert sorted(tmp_path.rglob("*")) == before
        _, *others = err.splitlines()
        assert all(line.startswith(("  Did you mean: ", "  Known:        ", "  What to do:   ")) for line in others), (
            err
        )
        return err.replace(str(tmp_path), "TMP")

    return run


OVERRIDES = {
    "a misspelt option": (
        "ranker.num_block=2",
        "run.yaml: ranker.num_block: no such option of ListRanker.\n  Did you mean: num_blocks\n  Known:  ",
    ),
    "a misspelt option of a component inside another": (
        "ranker.block={name: transformer, num_head: 2}",
        "run.yaml: ranker.block.num_head: no such option of Transformer.\n  Did you mean: num_heads\n",
    ),
    "a misspelt ranker": (
        "ranker.name=list_rankr",
        "run.yaml: ranker: 'list_rankr' is not among the rankers.\n  Did you mean: list_ranker\n",
    ),
    "a misspelt block": (
        "ranker.block=transfomer",
        "run.yaml: ranker.block: 'transfomer' is not among the blocks.\n  Did you mean: transformer\n",
    ),
    "a misspelt loss": (
        "ranker.loss=infonse",
        "run.yaml: ranker.loss: 'infonse' is not among the losses.\n  Did you mean: ",
    ),
    "a misspelt metric": (
        "ranker.metrics=[mrr, ndgc@10]",
        "run.yaml: ranker.metrics[1]: 'ndgc' is not among the metrics.",
    ),
    "a metric without a cut-off": (
        "ranker.metrics=[mrr, recall]",
        "run.yaml: ranker.metrics[1].k: recall needs this option.",
    ),
    "a cut-off that is none": (
        "ranker.metrics=[ndcg@ten]",
        "run.yaml: ranker.metrics[0]: 'ndcg@ten': expected a whole number",
    ),
    "a misspelt logger": (
        "logger=wandbb",
        "run.yaml: logger[0]: 'wandbb' is not among the loggers.\n  Did you mean: wandb\n",
    ),
    "a misspelt callback": (
        "callbacks=[early_stoping]",
        "run.yaml: callbacks[0]: 'early_stoping' is not among the callbacks.\n  Did you mean: early_stopping\n",
    ),
    "an unknown key": (
        "traner.max_epochs=3",
        "run.yaml: traner: no such option of RunConfig.\n  Did you mean: trainer\n  Known:        ranker,",
    ),
    "a word for a number": (
        "ranker.num_blocks=two",
        "run.yaml: ranker.num_blocks: expected int from 0 to 256, got 'two'",
    ),
    "a yes for a number": (
        "datamodule.num_candidates=true",
        "run.yaml: datamodule.num_candidates: expected int from 2 to 100,000, got true.",
    ),
    "a null for a number": ("seed=null", "run.yaml: seed: expected int from 0 to 4,294,967,295, got null"),
    "a name for a list": ("ranker.metrics=mrr", "run.yaml: ranker.metrics: expected list[one of metrics], got 'mrr'"),
    "a choice that is none": (
        "ranker.query=learnt",
        "run.yaml: ranker.query: no such choice: 'learnt'.\n  Did you mean: learned\n  Known:        feature, learned",
    ),
    "a misspelt option of the trainer": (
        "trainer.max_epoch=3",
        "trainer.max_epoch: no such option of Trainer.\n  Did you mean: max_epochs\n",
    ),
    "a precision that is none": (
        "trainer.precision=bf16mixed",
        "trainer.precision: no such choice: 'bf16mixed'.\n  Did you mean: bf16-mixed\n",
    ),
    "a precision that is nearly auto": (
        "trainer.precision=auot",
        "trainer.precision: no such choice: 'auot'.\n  Did you mean: auto\n  Known:        auto, ",
    ),
    "an accelerator that is not there": (f"trainer.accelerator={ABSENT}", "trainer: "),
    "an accelerator that is none": ("trainer.accelerator=cpuu", "trainer: You selected an invalid accelerator name"),
    "no device": ("trainer.devices=0", "trainer: `Trainer(devices=0)` value is not a valid input"),
    "a strategy that is none": ("trainer.strategy=ddpp", "trainer: You selected an invalid strategy name"),
    "epochs below none": ("trainer.max_epochs=-5", "trainer.max_epochs: expected int from -1"),
    "what the run sets itself": ("trainer.logger=csv", "trainer.logger: is set by the run itself.\n  What to do:   "),
    "a metric to monitor that is not reported": (
        "monitor=val/mmr",
        "monitor: 'val/mmr' is not among what ranker.metrics reports.\n  Did you mean: val/mrr\n",
    ),
    "a store that does not exist": (
        "datamodule.path=nowhere",
        "TMP/nowhere: no such group store.\n  What to do:   build it with",
    ),
    "a file that is no store": ("datamodule.path=run.yaml", "TMP/run.yaml: not a group store"),
    "a depth that is not stored": (
        "datamodule.depth=0.6",
        "datamodule.depth: the store has no depth 0.6.\n  Known:  ",
    ),
    "batches of nothing": (
        "datamodule.batch_size=0",
        "datamodule.batch_size: expected int from 1 to 1,000,000, got 0.",
    ),
    "a group of one": (
        "datamodule.num_candidates=1",
        "datamodule.num_candidates: expected int from 2 to 100,000, got 1.",
    ),
    "a contradiction with the data": (
        "ranker.feature_dim=99",
        "ranker.feature_dim: 99 contradicts the data, which has 16.\n  What to do:   leave it out",
    ),
    "shared negatives for a ranker of lists": (
        "datamodule.negatives=all",
        "datamodule.negatives: list_ranker scores candidates in the company of their group",
    ),
    "fewer blocks than none": ("ranker.num_blocks=-1", "ranker.num_blocks: expected int from 0 to 256, got -1."),
    "heads that do not divide the size": (
        "ranker.block={name: transformer, num_heads: 5}",
        "ranker.block: transformer: num_heads 5 does not divide dim 8; what does: 1, 2, 4, 8",
    ),
    "a projection to nothing": (
        "ranker.projection.dim=0",
        "ranker.projection.dim: expected int from 1 to 65,536, got 0.",
    ),
    "a temperature of zero": (
        "ranker.temperature=0",
        "ranker.temperature: expected float above 0",
    ),
    "no key=value": (
        "ranker.num_blocks",
        "run.yaml: ranker.num_blocks: expected key=value, such as trainer.max_epochs=3.",
    ),
    "no yaml behind the =": (
        "ranker.loss=[bce",
        "run.yaml: ranker.loss: not a yaml value: '[bce'.\n  What to do:   quote it",
    ),
    "an interpolation of nothing": ("ranker.loss=${lose}", "run.yaml: ranker.loss: Interpolation key 'lose' not found"),
    "a value left open": ("seed=???", "run.yaml: seed: has to be set.\n  What to do:   add seed=VALUE to the command"),
    "a module that is not there": (
        "imports=[my_ranker]",
        "run.yaml: imports[0]: no module named 'my_ranker'.\n  What to do:   put my_ranker.py in one of TMP,",
    ),
    "a file for a module": (
        "imports=[my_ranker.py]",
        "run.yaml: imports[0]: not the name of a module: 'my_ranker.py'.\n  What",
    ),
    "minutes for a number": (
        "datamodule.batch_size=1:30",
        "datamodule.batch_size: 1:30 could be read as another number.\n  What to do:   write the",
    ),
    "a number in groups": ("datamodule.batch_size=1_0", "datamodule.batch_size: 1_0 could be read as another number."),
    "a number that begins with 0": ("ranker.block={name: mlp, ratio: 010}", "ranker.block.ratio: 010 could be read as"),
    "minutes in a list": ("ranker.scaling.widths=[1, 1:30]", "ranker.scaling.widths[1]: 1:30 could be read as"),
    "a second line": ("seed=1\nruns: elsewhere", "seed: a value is one line, got '1\\nruns: elsewhere'."),
    "a new line in a value": ("runs=a\nb", "runs: a value is one line, got 'a\\nb'."),
    "a logger without an end": ("logger=5", "logger: expected list[one of loggers], got 5"),
    "a name that no folder can have": (f"runs={'x' * 300}", "runs: expected str, not empty, got 'xxx"),
    "a folder with a NUL": ('runs="a\\0b"', "runs: 'a\\x00b' has the character"),
    "no folder for runs": ("runs=", "runs: expected str, not empty, got ''."),
    "an endless temperature": (
        "ranker.temperature=.inf",
        "ranker.temperature: expected float above 0",
    ),
    "a time between saves that is none": (
        "save_every=.nan",
        "save_every: expected float from 0",
    ),
    "features of no size": ("ranker.feature_dim=0", "ranker.feature_dim: expected int from 1 to 67,108,864, got 0."),
    "a billion blocks": (
        "ranker.num_blocks=1000000000",
        "ranker.num_blocks: expected int from 0 to 256",
    ),
    "a W&B project in two parts": (
        "logger={name: wandb, project: a/b}",
        "logger[0].project: expected str of 1 to 128 characters, got 'a/b' (W&B allows no / in it).",
    ),
    "a folder that is no store": ("datamodule.path=.", "TMP: not a group store: it has no manifest.json."),
    "devices that are no number": ("trainer.devices=abc", "trainer"),
    "steps of no batch": ("trainer.accumulate_grad_batches=0", "trainer"),
    "a loss over the top none": (
        "ranker.loss={name: lambda_loss, k: 0}",
        "ranker.loss.k: expected int",
    ),
    "a loss with a temperature of zero": (
        "ranker.loss={name: listnet, label_temperature: 0}",
        "ranker.loss.label_temperature: ",
    ),
    "a metric of the top none": ("ranker.metrics=[mrr, ndcg@0]", "ranker.metrics"),
    "a rate below zero": ("ranker.optimizer.lr=-1", "ranker.optimizer.lr: expected float above 0"),
    "a warm-up beyond the end": (
        "ranker.schedule={name: cosine, warmup: 5}",
        "ranker.schedule.warmup: expected",
    ),
    "stopping by what is not reported": ("callbacks=[{name: early_stopping, monitor: val/mmr}]", "callbacks[0]"),
    "no draws to validate on": ("datamodule.eval_draws=0", "datamodule.eval_draws: "),
    "fewer workers than none": ("datamodule.num_workers=-1", "datamodule.num_workers: "),
    "a seed below zero": ("seed=-1", "seed: "),
    "a file for the folder of runs": ("runs=run.yaml", "run"),
    "no steps between logs": ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps: expected int from 1"),
    "no validation": ("trainer.limit_val_batches=0", "trainer.limit_val_batches: expected int from 1"),
    "two stores": ("features={name: embedding, source: python_functions}", "datamodule.path: there is a `features:`"),
}


@pytest.mark.parametrize(("override", "message"), OVERRIDES.values(), ids=OVERRIDES.keys())
def test_a_wrong_override_is_refused(refused: Callable[..., str], override: str, message: str) -> None:
    found = refused(override)
    assert found.startswith(f"run.yaml: {message.removeprefix('run.yaml: ')}")
    assert refused("--check", override) == found


FILES = {
    "a base that is not there": ("base: nowhere.yaml", "run.yaml: base: no such file: 'nowhere.yaml'."),
    "a base in a circle": ("base: run.yaml", "run.yaml: base: goes in a circle: run.yaml -> run.yaml."),
    "two bases": ("base: [a.yaml, b.yaml]", "run.yaml: base: expected the name of one file, got ['a.yaml', 'b.yaml']."),
    "a bracket too many": ("callbacks: [early_stopping]]", "run.yaml: line 16, column 28: not valid yaml: "),
    "a tab": ("callbacks:\n\t- early_stopping", "run.yaml: line 17, column 1: not valid yaml: "),
    "a key twice": ("runs: elsewhere", "run.yaml: line 16, column 1: not valid yaml: found duplicate key runs."),
    "an object of Python": ("seed: !!python/name:os.system x", "run.yaml: line 16, column 7: not valid yaml: "),
    "a number for a key": ("3: 4", "run.yaml: 3: no such option of RunConfig."),
}


@pytest.mark.parametrize(("line", "message"), FILES.values(), ids=FILES.keys())
def test_a_wrong_line_in_a_yaml_is_refused(refused: Callable[..., str], line: str, message: str) -> None:
    assert refused(append=f"{line}\n").startswith(message)


def test_a_run_without_a_store_says_how_to_get_one(
    refused: Callable[..., str], run_config: Callable[..., Path], tmp_path: Path
) -> None:
    path = run_config("no_store.yaml")
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "path:" not in line))
    message = refused(command=("--config", "no_store.yaml"))
    assert message.startswith(
        "no_store.yaml: datamodule.path: which store?\n  What to do:   name a store there, or say in a `features:`"
    )


def test_a_misspelt_config_is_told_what_there_is(refused: Callable[..., str]) -> None:
    message = refused(command=("--config", "quikstart"))
    assert message.startswith("quikstart: no such file, and no such name in configs/.\n")


def test_a_folder_that_is_no_run_cannot_go_on(refused: Callable[..., str]) -> None:
    for run in ("runs/quickstart/2026-01-31_12-00-00", "."):
        message = refused(command=("--resume", run))
        assert message.startswith(f"{run}: no run to go on with: there is no config.yaml in it.")


def test_a_check_finds_what_a_run_would(refused: Callable[..., str], run_config: Callable[..., Path]) -> None:
    assert refused("--check", "trainer.max_epoch=3") == refused("trainer.max_epoch=3")
    assert train.main(["--config", str(run_config()), "--check"]) == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("features.source.path=nowhere.jsonl", "nowhere.jsonl: no such file or folder."),
        ("datamodule.num_candidates=1", "datamodule.num_candidates: expected int from 2 to 100,000, got 1."),
        ("datamodule.negatives=all", "datamodule.negatives: list_ranker scores candidates in the company"),
        ("ranker.projection=null ranker.block.num_heads=17", "ranker.block: transformer: num_heads 17 does not divide"),
    ],
)
def test_what_a_store_does_not_decide_is_checked_before_there_is_one(
    override: str, message: str, refused: Callable[..., str], run_config: Callable[..., Path], tmp_path: Path
) -> None:
    given = {"feature": [1.0, 2.0]}
    candidates = [{"id": name, "text": name, "label": int(name == "a"), **given} for name in "ab"]
    row = {"query_id": "q", "query": "a", "candidates": candidates, **given}
    (tmp_path / "groups.jsonl").write_text(json.dumps(row) + "\n")
    usual = run_config().read_text().splitlines()
    features = "features: {name: embedding, encoder: null, source: {name: jsonl, path: groups.jsonl}}"
    (tmp_path / "texts.yaml").write_text("\n".join([line for line in usual if "path:" not in line] + [features]))
    command = ("--config", "texts.yaml")
    for words in (override.split(), ["--check", *override.split()]):
        assert refused(*words, command=command).startswith(f"texts.yaml: {message}")
    assert train.main([*command, "--check"]) == 0


def test_print_config_shows_every_option_and_writes_nothing(
    run_config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["--config", str(run_config()), "--print-config", "seed=7"]) == 0
    shown = capsys.readouterr().out
    assert "seed: 7\n" in shown and "num_heads: null\n" in shown
    (tmp_path / "shown.yaml").write_text(shown)
    assert train.main(["--config", str(tmp_path / "shown.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == shown


def test_a_config_without_a_name_is_no_config(refused: Callable[..., str]) -> None:
    assert refused(command=("--config", "")).startswith("--config: no such file, and no such name in configs/.\n")
    assert refused(command=("--config", "x" * 300)).startswith(f"{'x' * 300}: no such file")


def test_two_configs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--config", "a.yaml", "--config", "b.yaml"])
    assert "--config is there 2 times: a config names others with `base:`" in capsys.readouterr().err


def test_null_is_no_logger_and_a_tilde_is_the_home_folder(
    run_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    config = load_config(run_config(), ["logger=null", "runs=~/x"])
    assert (config.logger, config.runs) == ([], "/somewhere/x")


@pytest.mark.parametrize("command", [[], ["--config", "a.yaml", "--resume", "b"]])
def test_a_command_needs_a_config_or_a_run(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        train.main(command)
    assert error.value.code == 2
    assert "give --config FILE, or --resume RUN" in capsys.readouterr().err
