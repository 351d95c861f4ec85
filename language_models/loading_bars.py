"""Loading bars: temporarily hides the progress bars that transformers and the hub draw."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def no_bars() -> Iterator[None]:
    """Hide bars of transformers and huggingface_hub in this context, unless HF_HUB_DISABLE_PROGRESS_BARS=0 is set."""
    from huggingface_hub import constants
    from transformers.utils import logging

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is False:
        yield
        return
    states = importlib.import_module("huggingface_hub.utils.tqdm").progress_bar_states
    enabled, before = logging.is_progress_bar_enabled(), dict(states)
    gguf: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    bar = gguf.tqdm
    logging.disable_progress_bar()
    # The bar for GGUF files is plain tqdm, which transformers' switch does not reach.
    gguf.tqdm = logging.tqdm
    try:
        yield
    finally:
        gguf.tqdm = bar
        if enabled:
            logging.enable_progress_bar()
        states.clear()
        states.update(before)
