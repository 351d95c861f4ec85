import pytest
import torch
import transformers
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from registry import SCHEDULES, ConfigError

TWINS = {
    "constant": lambda optimizer, warmup, total: transformers.get_constant_schedule_with_warmup(optimizer, warmup),
    "linear": transformers.get_linear_schedule_with_warmup,
    "cosine": transformers.get_cosine_schedule_with_warmup,
}


def optimizer() -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)


def rates(schedule: LRScheduler, num_steps: int) -> list[float]:
    found = []
    for _ in range(num_steps):
        found.extend(schedule.get_last_lr())
        schedule.optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_rates_are_those_of_transformers(name: str, warmup: float) -> None:
    schedule = SCHEDULES.build({"name": name, "warmup": warmup}, optimizer(), 50)
    assert rates(schedule, 50) == pytest.approx(rates(TWINS[name](optimizer(), round(50 * warmup), 50), 50))


def test_rates_rise_to_the_full_rate_then_fall_to_zero_and_stay_there() -> None:
    schedule = SCHEDULES.build({"name": "linear", "warmup": 0.4}, optimizer(), 5)
    assert rates(schedule, 8) == pytest.approx([0, 0.25, 0.5, 0.5 * 2 / 3, 0.5 / 3, 0, 0, 0])


def test_a_schedule_goes_on_from_its_saved_state() -> None:
    whole, first, second = (SCHEDULES.build({"name": "cosine", "warmup": 0.2}, optimizer(), 20) for _ in range(3))
    expected = rates(whole, 20)
    assert rates(first, 7) == expected[:7]
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    assert rates(second, 13) == expected[7:]


@pytest.mark.parametrize("warmup", [-0.1, 1.5])
def test_a_warmup_that_is_no_share_is_refused(warmup: float) -> None:
    with pytest.raises(ConfigError, match="warmup: expected float from 0 to 1, got"):
        SCHEDULES.build({"name": "cosine", "warmup": warmup}, optimizer(), 50)
