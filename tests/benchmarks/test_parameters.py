"""The published numbers of trained weights follow from shapes alone."""

from benchmarks import parameters
from benchmarks.parameters import GPT2, LLAMA_8B, QWEN_7B, QWEN_32B, all_weights, lora_weights


def test_the_papers_reward_models_train_what_the_paper_says() -> None:
    assert round(lora_weights(QWEN_7B) / 1e6, 1) == 161.5
    assert round(lora_weights(QWEN_32B) / 1e6, 1) == 536.9
    assert round(lora_weights(LLAMA_8B) / 1e6, 1) == 167.8


def test_the_weights_of_lora_are_those_of_a_hand_computation() -> None:
    # Inputs + outputs of q and o, k and v, gate and up, down; 32 blocks.
    attention = 2 * (4096 + 4096) + 2 * (4096 + 1024)
    assert lora_weights(LLAMA_8B) == 64 * 32 * (attention + 3 * (4096 + 14336))


def test_llamas_176_million_have_lora_on_the_language_head() -> None:
    with_head, without = lora_weights(LLAMA_8B, language_head=True), lora_weights(LLAMA_8B)
    assert with_head - without == 64 * (4096 + 128_256)
    assert int(with_head / 1e6) == 176


def test_gpt2_has_124_million_weights_and_137_with_its_masks() -> None:
    assert all_weights(GPT2) == 124_439_808
    assert [round(row.count / 1e6) for row in parameters.counted()[-2:]] == [124, 137]


def test_every_published_number_of_the_light_rankers_is_met() -> None:
    rows = [row for row in parameters.counted() if row.unit == 2**20]
    assert len(rows) == 9
    for row in rows:
        digits = len(row.published.partition(".")[2])
        assert f"{row.count / row.unit:.{digits}f}" == row.published
    assert parameters.table().row_count == 15
