"""NumpyRanker: the scores of a saved ListRanker or PointRanker, computed by NumPy alone, without PyTorch."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, deserialize

from ranking.stores.files import signed
from registry import ConfigError
from serving.gelu import Array, gelu

_KNOWN = {
    "name": ("list_ranker", "point_ranker"),
    "block": ("transformer", "mlp", "gated"),
    "projection": ("linear", "low_rank", None),
    "similarity": ("cosine", "dot", "bilinear", "mlp"),
}
_READ = {*_KNOWN, "feature_dim", "num_blocks", "query", "temperature"}
_READ |= {"learn_temperature", "loss", "optimizer", "schedule", "metrics"}
_FORMATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


class NumpyRanker:
    """A ListRanker or PointRanker that runs without PyTorch.

    Args:
        folder: A folder written by `save_pretrained`.
        dtype: The number format to compute in: float32, or float64 to check.

    Raises:
        ConfigError: If the folder holds no such ranker, a file was changed, or the ranker has a part that is not
            registered by this project.
    """

    def __init__(self, folder: str | Path, dtype: type[np.floating[Any]] = np.float32) -> None:
        description, self._weights = _read(Path(folder), dtype)
        self.options: Mapping[str, Any] = description["ranker"]
        self.encoder: Mapping[str, Any] | None = description["encoder"]
        check_options(self.options)
        self._dtype = dtype

    def score(self, query: ArrayLike, candidates: ArrayLike, mask: ArrayLike | None = None) -> Array:
        """Score K candidates for each of B queries; higher is better.

        Args:
            query: One vector per query, [B, D].
            candidates: [B, K, D].
            mask: True where a candidate exists, [B, K]; None if all do. Scores elsewhere mean nothing.

        Raises:
            ValueError: If the shapes do not fit each other or the ranker.
        """
        query, candidates = np.asarray(query, self._dtype), np.asarray(candidates, self._dtype)
        expected = (*candidates.shape[:2], self.options["feature_dim"])
        if candidates.shape != expected or query.shape != (expected[0], expected[2]):
            shapes = f"{list(query.shape)} and {list(candidates.shape)}"
            raise ValueError(f"expected [B, {expected[2]}] and [B, K, {expected[2]}], got {shapes}")
        exists = np.ones(expected[:2], bool) if mask is None else np.asarray(mask, bool)
        if exists.shape != expected[:2]:
            raise ValueError(f"expected a mask of shape {list(expected[:2])}, got {list(exists.shape)}")
        vectors = self._project(candidates)
        if self.options["query"] == "learned":
            first = np.broadcast_to(self._weights["query"], (len(query), vectors.shape[-1]))
        else:
            first = self._project(query)
        vectors = np.concatenate([first[:, None], vectors], axis=1)
        exists = np.pad(exists, ((0, 0), (1, 0)), constant_values=True)
        if self.options["name"] == "point_ranker":  # each vector alone
            shape = vectors.shape
            vectors = self._refine(vectors.reshape(-1, 1, shape[-1]), np.ones((shape[0] * shape[1], 1), bool))
            vectors = vectors.reshape(shape)
        else:
            vectors = self._refine(vectors, exists)
        return self._compare(vectors[:, :1], vectors[:, 1:])[:, 0] / self._temperature

    @property
    def _temperature(self) -> np.floating[Any]:
        learned = self._weights.get("similarity.log_temperature")
        return self._dtype(self.options["temperature"] if learned is None else np.exp(learned))

    def _linear(self, name: str, x: Array) -> Array:
        out = x @ self._weights[f"{name}.weight"].T
        return out + self._weights[f"{name}.bias"] if f"{name}.bias" in self._weights else out

    def _norm(self, name: str, x: Array) -> Array:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5)
        return x * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]

    def _project(self, x: Array) -> Array:
        match _name_of(self.options["projection"]):
            case "linear":
                return self._linear("layers.projection.linear", x)
            case "low_rank":
                return x + self._linear("layers.projection.up", self._linear("layers.projection.down", x))
        return x

    def _refine(self, x: Array, exists: NDArray[np.bool_]) -> Array:
        for number in range(self.options["num_blocks"]):
            at = f"layers.blocks.{number}"
            match _name_of(self.options["block"]):
                case "transformer":
                    x = np.where(exists[..., None], x, 0)
                    x = x + self._linear(f"{at}.out", self._attend(at, self._norm(f"{at}.norm", x), exists))
                    x = self._mlp(f"{at}.mlp", x)
                case "mlp":
                    x = self._mlp(at, x)
                case "gated":
                    both = self._linear(f"{at}.gate_and_expand", self._norm(f"{at}.norm", x))
                    gate, value = np.split(both, 2, axis=-1)
                    x = x + self._linear(f"{at}.contract", gate * _sigmoid(gate) * value)
        return x

    def _mlp(self, at: str, x: Array) -> Array:
        return x + self._linear(f"{at}.contract", gelu(self._linear(f"{at}.expand", self._norm(f"{at}.norm", x))))

    def _attend(self, at: str, x: Array, exists: NDArray[np.bool_]) -> Array:
        size, count, dim = x.shape
        heads = self.options["block"].get("num_heads") or math.gcd(dim, 4)
        parts = self._linear(f"{at}.query_key_value", x).reshape(size, count, 3, heads, dim // heads)
        query, key, value = parts.transpose(2, 0, 3, 1, 4)
        logits = query @ key.transpose(0, 1, 3, 2) / self._dtype(math.sqrt(dim // heads))
        logits = np.where(exists[:, None, None, :], logits, -np.inf)
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        mixed = shares / shares.sum(axis=-1, keepdims=True) @ value
        return mixed.transpose(0, 2, 1, 3).reshape(size, count, dim)

    def _compare(self, query: Array, candidates: Array) -> Array:
        at = "similarity.similarity"
        match _name_of(self.options["similarity"]):
            case "cosine":
                query, candidates = (x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-8)
                                     for x in (query, candidates))  # fmt: skip
            case "bilinear":
                query = self._linear(f"{at}.map", query)
            case "mlp":
                both = self._linear(f"{at}.query", query) + self._linear(f"{at}.candidate", candidates)
                return self._linear(f"{at}.score", gelu(both)).transpose(0, 2, 1)
        return query @ candidates.transpose(0, 2, 1)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse a ranker that cannot run without PyTorch.

    Args:
        options: The ranker's name and all of its options.

    Raises:
        ConfigError: With the option that needs PyTorch.
    """
    for option, known in _KNOWN.items():
        if (given := _name_of(options[option])) not in known:
            cure = "load it with rankers.checkpoint" if option == "name" else "export it as ONNX"
            problem = f"{given} cannot run without PyTorch."
            raise ConfigError(f"ranker.{option}", problem, known=map(str, known), cure=cure)
    for option in options.keys() - _READ:
        if options[option]:
            raise ConfigError(f"ranker.{option}", "needs PyTorch.", cure="load it with rankers.checkpoint")


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _name_of(node: Any) -> Any:
    return node["name"] if isinstance(node, Mapping) else node


def _read(folder: Path, dtype: type[np.floating[Any]]) -> tuple[dict[str, Any], dict[str, Array]]:
    config, file = folder / "config.json", folder / "model.safetensors"
    if not (config.is_file() and file.is_file()):
        cure = "write one: serving.reranker or rankers.checkpoint has save_pretrained"
        raise ConfigError(str(folder), "not a folder of save_pretrained.", cure=cure)
    try:
        description, content = json.loads(config.read_text(encoding="utf-8")), file.read_bytes()
        if not isinstance(description, dict):
            raise ConfigError(str(config), "this was not written by save_pretrained.")
        if not signed(description) or hashlib.sha256(content).hexdigest() != description["weights_sha256"]:
            raise ConfigError(str(folder), "damaged: its files do not match their hashes.", cure="copy it again")
        weights = {name: _array(tensor).astype(dtype) for name, tensor in deserialize(content)}
    except (ValueError, KeyError, SafetensorError) as error:
        raise ConfigError(str(folder), f"damaged: {error}.", cure="copy it again") from error
    return description, weights


def _array(tensor: Mapping[str, Any]) -> Array:
    if tensor["dtype"] == "BF16":  # NumPy has no such format; it is the upper half of a float32
        numbers = (np.frombuffer(tensor["data"], "<u2").astype("<u4") << 16).view("<f4")
    else:
        numbers = np.frombuffer(tensor["data"], _FORMATS[tensor["dtype"]])
    return numbers.reshape(tensor["shape"])
