from benchmarks import machine


def test_the_machine_is_described_and_measured() -> None:
    assert machine.describe()["cores"] >= 1
    assert machine.multiplications_per_second(64) > 0
    assert machine.bytes_per_second(1 << 10) > 0
