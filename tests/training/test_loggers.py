"""W&B is online where a key is configured, and nothing else makes a run ask or stop."""

from pathlib import Path
from typing import Any

import pytest
from offline_runs import records

from registry import LOGGERS, ConfigError
from training.loggers import has_wandb_key, wandb


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("machine api.wandb.ai\n  login user\n  password abc\n", True),
        ("machine example.org\n  login user\n  password abc\n", False),
        ("machine\n broken {{{", False),
        (None, False),
    ],
)
def test_a_key_is_looked_for_where_wandb_keeps_it(
    content: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    if content is not None:
        (tmp_path / "netrc").write_text(content)
        (tmp_path / "netrc").chmod(0o600)
    assert has_wandb_key() is expected
    monkeypatch.setenv("WANDB_BASE_URL", "https://example.org")
    assert has_wandb_key() is (content is not None and "example.org" in content)
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    assert has_wandb_key()


def test_a_run_of_any_config_name_has_an_id_that_wandb_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for config in ("quick", "my:config #1", "a/b?c%d\\e"[2:], "x" * 200):
        logger = wandb(str(tmp_path / config / "2026-01-31_12-00-00"))
        identity, name = str(logger._wandb_init["id"]), str(logger._wandb_init["name"])
        assert len(identity) <= 64 and not set(identity) & set("/\\#?%: ") and identity.endswith("-2026-01-31_12-00-00")
        assert len(name) <= 128 and name.endswith("/2026-01-31_12-00-00")


def test_a_run_begins_without_a_warning_of_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = wandb(str(tmp_path))
    logger.experiment.finish()
    assert "anonymous" not in capfd.readouterr().err


def test_a_resumed_run_goes_on_with_its_wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "quick" / "2026-01-31_12-00-00"
    folder.mkdir(parents=True)
    found = []
    for place, value in enumerate((0.5, 0.75)):
        logger = wandb(str(folder))
        logger.log_metrics({"val/mrr": value}, step=1)
        logger.experiment.finish()
        (written,) = folder.glob("wandb/offline-run-2*")
        # W&B's names have the second of the start, in which both may start.
        found.append(records(written.rename(written.with_name(written.name.replace("run-2", f"run-{place}")))))
        folder = folder.rename(tmp_path / "moved")
    runs = [record["run"] for each in found for record in each if record["type"] == "run"]
    assert [run["run_id"] for run in runs] == ["quick-2026-01-31_12-00-00"] * 2 and all(run["resume"] for run in runs)
    values = [record["history"]["item"]["val/mrr"] for each in found for record in each if record["type"] == "history"]
    assert values == [0.5, 0.75]


@pytest.mark.parametrize("options", [
    {"project": "a/b"}, {"project": "a:b"}, {"project": "a#b"}, {"project": "x" * 129}, {"project": ""},
    {"group": ""}, {"group": "x" * 129}, {"tags": [""]}, {"tags": ["x" * 65]}, {"entity": ""},
])  # fmt: skip
def test_names_that_wandb_refuses_are_refused_in_the_yaml(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^loggers.{next(iter(options))}"):
        LOGGERS.check({"name": "wandb", **options})
