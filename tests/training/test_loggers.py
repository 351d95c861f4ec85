"""W&B is online where a key is configured, and nothing else makes a run ask or stop."""

from pathlib import Path

import pytest

from training.loggers import has_wandb_key


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
