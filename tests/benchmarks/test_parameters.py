"""The published numbers of trained weights follow from shapes alone."""

from benchmarks import parameters
from benchmarks.parameters import BLOCKS, HEAD, LLAMA_8B, QWEN_7B, QWEN_32B, all_weights, lora_weights


def test_the_papers_reward_models_train_what_the_paper_says() -> None:
    assert round(lora_weights(QWEN_7B, BLOCKS) / 1e6, 1) == 161.5
    assert round(lora_weights(QWEN_32B, BLOCKS) / 1e6, 1) == 536.9
    assert round(lora_weights(LLAMA_8B, BLOCKS) / 1e6, 1) == 167.8


def test_llamas_176_million_have_lora_on_the_language_head() -> None:
    with_head, without = lora_weights(LLAMA_8B, HEAD), lora_weights(LLAMA_8B, BLOCKS)
    assert with_head - without == 64 * (4096 + 128_256)
    assert int(with_head / 1e6) == 176


def test_gpt2_has_124_million_weights_and_137_with_its_masks() -> None:
    weights = all_weights(parameters.GPT2Config())
    assert weights == 124_439_808
    assert round((weights + 12 * 1024 * 1024) / 1e6) == 137


def test_every_published_number_of_the_light_rankers_is_met() -> None:
    rows = [row for row in parameters.counted() if row.unit == 2**20]
    assert len(rows) == 6
    assert [f"{row.count / row.unit:.2f}" for row in rows] == [row.published for row in rows]
    assert parameters.table().row_count == 12
