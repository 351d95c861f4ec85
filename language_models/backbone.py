"""Backbone: a pretrained language model, with a description that can be saved, checked and loaded again."""

import dataclasses
import hashlib
import importlib.util
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from console.progress import bar_console, can_redraw, is_first_process
from language_models import TRANSFORMERS
from language_models.loading_bars import no_bars
from language_models.precision import (
    Dtype,
    Precision,
    announce_dtype,
    device_named,
    print_once,
    resolve_dtype,
)
from language_models.states.block_states import first_position_of
from registry import ConfigError
from registry.ranges import FilePath, Text

# Older versions load some weights in the wrong order, or fail on tokenizers without a first token.
GGUF_NEEDS = (5, 24)
_TOKENIZER_FILES = ("*.json", "*.txt", "*.model")


@dataclass(frozen=True)
class Backbone:
    """A model of the transformers library, causal or bidirectional, read from safetensors or GGUF, without custom code.

    Args:
        model: Name of the model on the Hugging Face hub, or path of a local folder.
        package: An installed Python package that contains the model, in its folder `model` or as a GGUF file; searched
            before the folder or hub.
        revision: Commit, tag or branch on the hub.
        sha256: The hash that the weights must have; for several files, the hash of their concatenated contents.
        gguf: Name of the GGUF file that holds model and tokenizer, quantized or not; null for safetensors.
        dtype: Number format of the weights, and of the computation unless the trainer's precision sets another. `auto`
            is bfloat16 on a GPU or CPU with bfloat16 hardware, else float32.
    """

    model: FilePath = "Qwen/Qwen3-Embedding-0.6B"
    package: Text | None = None
    revision: Text | None = None
    sha256: Text | None = None
    gguf: FilePath | None = None
    dtype: Dtype = "auto"

    yaml_path: ClassVar[str] = "ranker.backbone"

    @property
    def compute_device(self) -> torch.device:
        """The device that the model runs on."""
        return device_named()

    @property
    def resolved_dtype(self) -> Precision:
        """The dtype, with `auto` replaced by what it stands for on the model's device."""
        return resolve_dtype(self.dtype, self.compute_device)

    @cached_property
    def folder(self) -> Path:
        """The folder with the model's files; downloads them if necessary.

        Raises:
            ConfigError: If the files cannot be found or downloaded.
        """
        for folder in self._packaged:
            if (folder / (self.gguf or "config.json")).is_file():
                return folder
        folder = Path(self.model) if Path(self.model).is_dir() else self._download()
        if self.gguf and not (folder / self.gguf).is_file():
            known = _ggufs(folder)
            raise ConfigError(f"{self.yaml_path}.gguf", f"no such file in {folder}.", given=self.gguf, known=known)
        return folder

    @cached_property
    def _packaged(self) -> list[Path]:
        """The folders where the package may hold the model; none if no package is set."""
        spec = importlib.util.find_spec(self.package) if self.package else None
        places = (spec.submodule_search_locations if spec else None) or ()
        return [folder for place in places for folder in (Path(place) / "model", Path(place))]

    @property
    def is_here(self) -> bool:
        """Whether the model's files are on this machine, so that no download is necessary."""
        file = self.gguf or "config.json"
        if Path(self.model).is_dir() or any((folder / file).is_file() for folder in self._packaged):
            return True
        from huggingface_hub import try_to_load_from_cache

        try:
            return isinstance(try_to_load_from_cache(self.model, file, revision=self.revision), str)
        except ValueError:  # not a valid name on the hub
            return False

    def check_folder(self, path: str) -> None:
        """Refuse a folder that does not exist, which is no name that the hub could have.

        Args:
            path: The yaml path of the model's node.

        Raises:
            ConfigError: If the model is named by such a path.
        """
        named = self.model.startswith(("/", "./", "../", "~")) or self.model.count("/") > 1
        if named and not self.is_here:
            cure = "the folder of a model, or its name on the Hugging Face hub"
            raise ConfigError(f"{path}.model", f"no such folder: {self.model}.", cure=cure)

    def config(self) -> Any:
        """The content of the model's config file.

        Raises:
            ConfigError: If the config file is missing or cannot be read.
        """
        from transformers import AutoConfig

        with self._loading("its config"):
            return AutoConfig.from_pretrained(self.folder, trust_remote_code=False, **self._files())

    def outline(self) -> Any:
        """The model without head and without weights, on the `meta` device.

        Raises:
            ConfigError: If the config file is missing or cannot be read.
        """
        from transformers import AutoModel

        config = self.config()
        with self._loading("its model"), torch.device("meta"):
            return AutoModel.from_config(config, trust_remote_code=False)

    def check_length(self, max_length: int, path: str, model: Any) -> None:
        """Check that the model has enough positions for texts of this length.

        Args:
            max_length: The most tokens of a text.
            path: The yaml path of the component that has `max_length`.
            model: The model, or its outline.

        Raises:
            ConfigError: If it has not; the error names `path`.
        """
        positions = getattr(model.config, "max_position_embeddings", None)
        longest = None if positions is None else positions - first_position_of(model)
        if longest is not None and max_length > longest:
            problem = f"{max_length} is more than the {longest} tokens of {self.model}."
            raise ConfigError(f"{path}.max_length", problem, cure=f"at most {longest}, or another model")

    def checked_outline(self, max_length: int, path: str, *, download: bool) -> Any:
        """The `outline`, after checking the hash of the weights and the number of positions.

        Args:
            max_length: The most tokens of a text.
            path: The yaml path of the component that has `max_length`.
            download: Whether to download a model that is not on this machine; if not, the result is None.

        Raises:
            ConfigError: If the model cannot be found, has other weights than `sha256`, or has too few positions.
        """
        self.check_folder(self.yaml_path)
        if not download and not self.is_here:
            return None
        if self.sha256 is not None:
            assert self.checked_hash
        outline = self.outline()
        self.check_length(max_length, path, outline)
        return outline

    @cached_property
    def checked_hash(self) -> str:
        """The sha256 of the weights.

        Raises:
            ConfigError: If there are no weights, or their hash is not `sha256`.
        """
        digest = hashlib.sha256()
        files = [self.folder / self.gguf] if self.gguf else sorted(self.folder.glob("*.safetensors"))
        if not files:
            found = next(self.folder.glob("*.gguf"), None)
            cure = f"{self.yaml_path}.gguf={found.name}" if found else None
            raise ConfigError(f"{self.yaml_path}.model", f"{self.folder} has no weights as *.safetensors.", cure=cure)
        for file in files:
            with file.open("rb") as content:
                while block := content.read(1 << 22):
                    digest.update(block)
        if self.sha256 not in (None, digest.hexdigest()):
            cure = f"download it again; if the other weights are meant, change {self.yaml_path}.sha256"
            problem = f"the weights in {self.folder} have the sha256 {digest.hexdigest()}, not {self.sha256}."
            raise ConfigError(f"{self.yaml_path}.sha256", problem, cure=cure)
        return digest.hexdigest()

    @property
    def folder_weights(self) -> dict[str, str]:
        """The hash of weights in a local folder, where other ones may come under the same name; else empty."""
        return {"sha256": self.checked_hash} if Path(self.model).is_dir() else {}

    def identity(self) -> dict[str, Any]:
        """The fields that rebuild this backbone, with the hash of its present weights.

        Raises:
            ConfigError: If the hash is not `sha256`.
        """
        model = str(Path(self.model).resolve()) if Path(self.model).is_dir() else self.model
        return self._fields() | {"model": model, "sha256": self.checked_hash}

    def tokenizer(self) -> Any:
        """The model's own tokenizer.

        Raises:
            ConfigError: If the tokenizer is missing or cannot be loaded.
        """
        from transformers import AutoTokenizer

        # Without any of these files, transformers silently makes a tokenizer with an empty vocabulary.
        vocabularies = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken")
        if not self.gguf and not any(True for pattern in vocabularies for _ in self.folder.glob(pattern)):
            cure = "save the model's tokenizer there as well: tokenizer.save_pretrained(folder)"
            raise ConfigError(f"{self.yaml_path}.model", f"{self.folder} has no tokenizer.", cure=cure)
        with self._loading("its tokenizer"):
            return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False, **self._files())

    def load(self, device_map: str | None = None) -> Any:
        """The model without head, in evaluation mode, on the CPU or where the device map says.

        Args:
            device_map: How accelerate distributes the model over devices, such as `auto`.

        Raises:
            ConfigError: If the model cannot be loaded or has another hash than `sha256`, or if accelerate is missing.
        """
        from transformers import AutoModel

        return self._load(AutoModel, device_map)[0]

    def load_causal(self, device_map: str | None = None) -> Any:
        """The model with its language head; the rest as in `load`.

        Raises:
            ConfigError: For the reasons of `load`, or if the head is missing.
        """
        from transformers import AutoModelForCausalLM

        model, info = self._load(AutoModelForCausalLM, device_map)
        if missing := info["missing_keys"]:
            problem = f"{self.folder} lacks weights of a causal model: {', '.join(sorted(missing)[:3])}."
            raise ConfigError(f"{self.yaml_path}.model", problem, cure="use a causal model with its language head")
        return model

    def load_classifier(self) -> tuple[Any, Any, Any]:
        """The model without head, its trained head of one output in fp32, and the `Pooling` that the head reads.

        Raises:
            ConfigError: For the reasons of `load` and `check_classifier`, or if the head is missing or reads more than
                one state of a text.
        """
        from transformers import AutoModelForSequenceClassification

        from language_models.classifier_head import split_classifier  # here, since it loads transformers

        self.check_classifier(self.config())
        model, info = self._load(AutoModelForSequenceClassification, None)
        if missing := info["missing_keys"]:
            problem = f"{self.folder} lacks weights of a trained head: {', '.join(sorted(missing)[:3])}."
            raise ConfigError(f"{self.yaml_path}.model", problem, cure="another model, or ranker.head=new")
        try:
            return split_classifier(model)
        except ValueError as error:
            problem = f"{error}, which this project does not support."
            raise ConfigError(f"{self.yaml_path}.model", problem, cure="another model, or ranker.head=new") from error

    def check_classifier(self, config: Any) -> None:
        """Check that the model's classification head has one output.

        Raises:
            ConfigError: If it has another number of outputs.
        """
        if (outputs := getattr(config, "num_labels", None)) != 1:
            problem = f"{self.model} has a head of {outputs} outputs, and a score is one."
            raise ConfigError(f"{self.yaml_path}.model", problem, cure="a model with num_labels 1, or ranker.head=new")

    def _load(self, kind: Any, device_map: str | None) -> tuple[Any, dict[str, Any]]:
        """A model of class `kind`, and transformers' report on its weights."""
        assert self.checked_hash
        self._announce_dtype()
        # Set while loading: a conversion afterwards would also round the frequencies of rotary positions.
        options: dict[str, Any] = {"dtype": getattr(torch, self.resolved_dtype)}
        if device_map is not None:
            if importlib.util.find_spec("accelerate") is None:
                problem = f"{device_map!r} needs the package accelerate, which is not installed."
                raise ConfigError(f"{self.yaml_path}.device_map", problem, cure="pip install accelerate")
            options["device_map"] = device_map
        if is_first_process():
            print_once(f"Loading {self.folder / self.gguf if self.gguf else self.model}")
        with self._loading("its model"):
            model, info = kind.from_pretrained(
                self.folder,
                use_safetensors=not self.gguf,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
                **self._files(),
            )
        if getattr(model.config, "is_encoder_decoder", False):
            problem = f"{self.model} is an encoder-decoder model."
            raise ConfigError(f"{self.yaml_path}.model", problem, cure="use an encoder-only or decoder-only model")
        return model.eval(), info

    def _announce_dtype(self) -> None:
        option = f"{self.yaml_path}.dtype"
        announce_dtype(option, self.dtype, self.resolved_dtype, f"{option}=auto", self.compute_device)

    def settled(self, settings: dict[str, Any], found: Mapping[str, Any] | None) -> dict[str, Any]:
        """Settings to compare with those of a store; if dtype is `auto`, they take over the store's dtype.

        Args:
            settings: What `settings()` of a subclass returns.
            found: The settings that the store was made with; None if there is no store yet.
        """
        return settings | {"dtype": found["dtype"]} if found and self.dtype == "auto" else settings

    def _fields(self) -> dict[str, Any]:
        """All fields, with `auto` replaced; `gguf` only if it is set, so that older descriptions stay valid."""
        fields = dataclasses.asdict(self) | {"dtype": self.resolved_dtype}
        return {name: value for name, value in fields.items() if (name, value) != ("gguf", None)}

    def _files(self) -> dict[str, str]:
        if not self.gguf:
            return {}
        if TRANSFORMERS < GGUF_NEEDS:
            needed, found = (".".join(map(str, each)) for each in (GGUF_NEEDS, TRANSFORMERS))
            problem = f"{self.gguf} needs transformers {needed} or newer, and this is {found}: older ones misread it."
            raise ConfigError(f"{self.yaml_path}.gguf", problem, cure="pip install --upgrade transformers")
        if importlib.util.find_spec("gguf") is None:
            problem = f"{self.gguf} cannot be read: the package gguf is not installed."
            raise ConfigError(f"{self.yaml_path}.gguf", problem, cure="pip install gguf")
        return {"gguf_file": self.gguf}

    @contextmanager
    def _loading(self, what: str) -> Iterator[None]:
        """Hide progress bars, and turn errors into ConfigErrors."""
        from transformers.utils import logging

        told = logging.get_verbosity()
        if self.gguf:
            # transformers warns about packed weights, which it does not use here.
            logging.set_verbosity_error()
        try:
            with no_bars():
                yield
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = textwrap.shorten(str(error), 160, placeholder=" ...")
            problem = f"{self.folder}: {what} cannot be loaded: {reason}"
            raise ConfigError(f"{self.yaml_path}.model", problem) from error
        finally:
            logging.set_verbosity(told)

    def _download(self) -> Path:
        from huggingface_hub import snapshot_download

        weights = self.gguf or "*.safetensors"
        in_log = not can_redraw(bar_console())
        if in_log and is_first_process():
            print_once(f"Fetching {self.model} from the Hugging Face hub")
        try:
            with no_bars() if in_log else nullcontext():
                folder = snapshot_download(
                    self.model,
                    revision=self.revision,
                    allow_patterns=[*_TOKENIZER_FILES, weights],
                    ignore_patterns=["*/*"],
                )
        except (OSError, ValueError) as error:
            reason = textwrap.shorten(str(error), 160, placeholder=" ...")
            problem = f"{self.model!r} is not a folder, and cannot be loaded from the hub: {reason}"
            cure = f"check the name and the connection, or set {self.yaml_path}.model to a folder that has the model"
            if self._packaged:
                files = [name for folder in self._packaged for name in _ggufs(folder)]
                has = f", only {', '.join(files)}" if files else ""
                problem = f"the package {self.package!r} has no {self.gguf or 'config.json'}{has}; {problem}"
            elif self.package:
                problem = f"the package {self.package!r} is not installed, {problem}"
                cure = f"pip install {self.package.replace('_', '-')}; or {cure}"
            raise ConfigError(self.yaml_path, problem, cure=cure) from error
        return Path(folder)


def _ggufs(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.gguf"))
