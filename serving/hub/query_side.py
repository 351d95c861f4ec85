"""Query side: the files from which sentence-transformers embeds queries as an LRanker does, where it can."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from language_models.backbone import Backbone
from language_models.lora import is_adapter
from rankers.lranker.prompt import QUERY, Prompt, check_template

MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"
FILES = (
    MODULES,
    SETTINGS,
    "sentence_bert_config.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "chat_template.jinja"),
)
_POOLING = "query_pooling"
FOLDERS = (_POOLING,)
# Texts on which tokenizers differ that join the text before a query with it.
_PROBES = ("sort a list", "Wie? 3.5%", "(x) = été")


def query_side_files(
    description: Mapping[str, Any], weights: Mapping[str, Tensor], portable: Mapping[str, Any]
) -> dict[str, bytes]:
    """The files by their paths; none for a ranker whose queries sentence-transformers cannot embed.

    It can if LoRA is all that was trained (no aggregator, no map after the backbone), the encoder has no share in the
    scores, nothing follows the query in the template, and it can pool the same tokens: all, the last one or, with a
    text before the query, those after that text (`query_eos`).

    Args:
        description: What `Ranker.description` returns.
        weights: The weights of the ranker.
        portable: The description with names of the hub instead of folders.
    """
    options = description["ranker"]
    if options["name"] != "lranker" or not all(map(is_adapter, weights)) or (options["mixing"] or {}).get("share"):
        return {}
    backbone = Backbone(**options["backbone"])
    head, _, tail = check_template(options["template"], placed=False).partition(QUERY)
    # It takes the main revision of the base model.
    if tail or backbone.gguf or backbone.revision or not _reads_alike(head, backbone, options["pooling"]):
        return {}
    modules = [("Transformer", ""), ("Pooling", _POOLING)]
    modules += [("Normalize", "query_normalize")] if options["normalize"] else []
    listed = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (kind, path) in enumerate(modules)
    ]
    pooling = {
        "word_embedding_dimension": options["feature_dim"],
        "pooling_mode_mean_tokens": options["pooling"] != "last",
        "pooling_mode_lasttoken": options["pooling"] == "last",
        "include_prompt": options["pooling"] != "query_eos",
    }
    settings = {"prompts": {"query": head}, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    documents = {
        MODULES: listed,
        SETTINGS: settings,
        "sentence_bert_config.json": {"max_seq_length": options["max_length"]},
        "adapter_config.json": _adapter_config(weights, portable["ranker"]),
        f"{_POOLING}/config.json": pooling,
    }
    return {
        **{path: (json.dumps(document, indent=2) + "\n").encode() for path, document in documents.items()},
        "adapter_model.safetensors": save(_as_peft(weights)),
        **_tokenizer_files(backbone),
    }


def _reads_alike(head: str, backbone: Backbone, pooling: str) -> bool:
    """Whether a text put before queries gives the tokens of the ranker's prompts, and the same of them are pooled."""
    tokenizer = backbone.tokenizer()
    prompt = Prompt.of(head + QUERY, tokenizer, placed=False)
    for probe in _PROBES:
        own = tokenizer(prompt.space + probe, add_special_tokens=False)["input_ids"]
        if tokenizer(head + probe)["input_ids"] != [*prompt.before, *own, *prompt.after]:
            return False
    if pooling != "query_eos" or not prompt.before:
        return True
    alone = tokenizer(head)["input_ids"]
    ends = alone[-1] in tokenizer.all_special_ids
    return bool(head) and alone[: len(alone) - ends] == [*prompt.before]


def _adapter_config(weights: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Any]:
    lora = options["lora"]
    return {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": options["backbone"]["model"],
        "r": lora["rank"],
        "lora_alpha": lora["alpha"],
        "lora_dropout": lora["dropout"],
        "target_modules": sorted({name.partition(".lora_")[0].removeprefix("backbone.") for name in weights}),
        "inference_mode": True,
    }


def _as_peft(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the names that PEFT's own files have."""
    return {
        f"base_model.model.{name.removeprefix('backbone.').replace('.default.', '.')}": weight.contiguous()
        for name, weight in weights.items()
    }


def _tokenizer_files(backbone: Backbone) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        backbone.tokenizer().save_pretrained(folder)
        return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}
