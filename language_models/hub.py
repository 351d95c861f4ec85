"""Hub: repositories of the Hugging Face hub by name, and copies of their files on this machine."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from language_models.loading_bars import no_bars
from registry import ConfigError

_NAME = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Repository:
    """A repository of models on the hub.

    Args:
        name: `user/name`.
        revision: Commit, tag or branch; None for the newest.
    """

    name: str
    revision: str | None = None

    @classmethod
    def named(cls, text: str | Path) -> "Repository | None":
        """The repository that `user/name` or `user/name@revision` names; None if the text has another form.

        >>> Repository.named("user/name@v1.0")
        Repository(name='user/name', revision='v1.0')
        >>> Repository.named("folder/user/name") is None
        True
        """
        found = _NAME.fullmatch(str(text))
        return cls(found["name"], found["revision"]) if found else None

    def download(self, files: Sequence[str]) -> Path:
        """The folder with a copy of these files; those that are here already are not downloaded again.

        Raises:
            ConfigError: If the repository does not exist or cannot be reached.
        """
        from huggingface_hub import snapshot_download

        try:
            with no_bars():
                return Path(snapshot_download(self.name, revision=self.revision, allow_patterns=list(files)))
        except hub_errors() as error:
            reason = textwrap.shorten(str(error), 160, placeholder=" ...")
            problem = f"not a folder here, and cannot be loaded from the Hugging Face hub: {reason}"
            cure = "check the name and the connection; for a private repository: hf auth login"
            raise ConfigError(str(self), problem, cure=cure) from error

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


def hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises if the hub refuses or cannot be reached, whatever its version sends requests with."""
    from huggingface_hub.errors import HfHubHTTPError

    return OSError, ValueError, *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))
