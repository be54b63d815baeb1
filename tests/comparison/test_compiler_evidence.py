"""What recordings say of why the compiler is asked."""

from cprune_rl.comparison.compiler_evidence import (
    find_inversion,
    find_staircase,
    measure_proxies,
    one_per_network,
)

PROBLEM = "resnet8@znver4-1t"


def test_a_staircase_is_of_one_layer_at_many_widths() -> None:
    staircase = find_staircase(PROBLEM)
    assert staircase is not None
    widths = [channels for channels, _ in staircase.points]
    assert widths == sorted(set(widths))
    assert len(widths) >= 3
    assert all(latency_s > 0 for _, latency_s in staircase.points)


def test_plans_of_equal_loss_differ_in_operations_and_latency() -> None:
    inversion = find_inversion(PROBLEM)
    assert len(inversion.points) > 10
    assert all(0 < macs <= 1 and 0 < latency_s <= 1.1 for macs, latency_s in inversion.points)
    assert inversion == find_inversion(PROBLEM), "the same plans each time"


def test_what_is_free_ranks_plans_less_well_than_the_truth() -> None:
    proxies = measure_proxies(PROBLEM)
    for correlation in (proxies.macs, proxies.latency, proxies.loss):
        assert 0 < correlation.value < 1
        assert correlation.low <= correlation.value <= correlation.high


def test_one_recording_of_each_network_has_pictures() -> None:
    assert one_per_network(["a@x", "b@x", "a@y"]) == ["a@x", "b@x"]
