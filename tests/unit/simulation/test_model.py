"""The simulated queue: it loses nothing, and its parts are as busy as their work says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.simulation.model import Cost, Costs, Crowding, Plan, Queue, simulate

NOTHING = Cost(chunk=0.0, image=0.0, second=0.0)
COSTS = Costs(
    workers=Cost(chunk=2e-3, image=20e-6, second=0.01),
    dispatcher=Cost(chunk=0.5e-3, image=0.0, second=0.01),
    database=Cost(chunk=1e-3, image=8e-6, second=0.002),
    dispatching=Cost(chunk=0.4e-3, image=0.0, second=0.0),
    broker=Cost(chunk=0.2e-3, image=0.0, second=0.001),
    flush_s=0.0005,
)
FREE = Costs(
    workers=Cost(chunk=0.0, image=1e-9, second=0.0),
    dispatcher=NOTHING,
    database=NOTHING,
    dispatching=NOTHING,
    broker=NOTHING,
    flush_s=0.0,
)


def test_no_chunk_is_lost_and_none_comes_twice() -> None:
    plan = Plan(workers=3, device_images_s=700, shared_cores=2)
    queue = Queue(plan, COSTS)
    for until_s in (0.7, 3.0, 11.3):
        queue.clock.run(until_s)
        held = sum(worker.chunks for worker in queue.workers)
        # What is stored may still be in the hands of its task, for the rest of its work.
        assert 0 <= held - (queue.published - queue.stored - queue.messages) <= 3
        assert queue.images_done == 256 * queue.stored
    assert queue.stored > 50


def test_work_is_dearer_in_a_crowd_and_never_cheaper_alone() -> None:
    costs = replace(COSTS, crowding=Crowding(chunk=0.1, image=0.2))
    assert costs.shared_by(1) == costs.shared_by(2) == costs
    crowd = costs.shared_by(8).workers
    assert crowd.chunk == pytest.approx(1.2 * costs.workers.chunk)
    assert crowd.image == pytest.approx(1.4 * costs.workers.image)


def test_slow_devices_decide_and_are_busy_all_the_time() -> None:
    """By hand: two devices of 500 images/s do 1,000 images/s, and all else is nearly idle."""
    found = simulate(Plan(workers=2, device_images_s=500), FREE)
    assert found.images_s == pytest.approx(1_000, rel=0.03)
    assert found.busy["device"] == pytest.approx(1.0, abs=0.01)
    assert found.busiest == "device"
    assert found.busy["worker"] < 0.01


def test_a_part_is_busy_for_its_rate_times_its_time() -> None:
    """The utilisation law, of parts that wait for devices."""
    found = simulate(Plan(workers=4, device_images_s=500, measured_s=64.0), COSTS)
    chunks_s = found.images_s / 256
    assert found.images_s == pytest.approx(2_000, rel=0.02)
    for part, cost, alive in (
        ("Redis", COSTS.broker, 4),
        ("worker", COSTS.workers, 4),
    ):
        expected = chunks_s * cost.chunk + found.images_s * cost.image + alive * cost.second
        places = 4 if part == "worker" else 1
        assert found.busy[part] * places == pytest.approx(expected, rel=0.05), part
    a_chunk_s = COSTS.database.chunk + COSTS.dispatching.chunk
    database = chunks_s * a_chunk_s + found.images_s * COSTS.database.image
    assert found.busy["database"] * 8 == pytest.approx(database + 4 * 0.002, rel=0.05)


def test_cores_that_all_share_decide_when_devices_take_no_time() -> None:
    """By hand: two cores, and the sum of what all parts spend for a chunk."""
    found = simulate(Plan(workers=4, shared_cores=2), COSTS)
    a_chunk_s = sum(cost.chunk + 256 * cost.image for cost in parts(COSTS))
    idle_s = sum(cost.second for cost in (COSTS.workers, COSTS.database, COSTS.broker)) * 4 + 0.01
    assert found.images_s == pytest.approx(256 * (2 - idle_s) / a_chunk_s, rel=0.03)
    assert found.busy["cores"] > 0.98


def parts(costs: Costs) -> tuple[Cost, ...]:
    return costs.workers, costs.dispatcher, costs.database, costs.dispatching, costs.broker


def test_a_dispatcher_without_time_decides_and_longer_chunks_help() -> None:
    slow = replace(COSTS, dispatcher=Cost(chunk=20e-3, image=0.0, second=0.0))
    plan = Plan(workers=64, device_images_s=2_000)
    short, long = simulate(plan, slow), simulate(replace(plan, chunk_images=1024), slow)
    assert short.busiest == "dispatcher"
    assert short.images_s == pytest.approx(256 / 20e-3, rel=0.15)
    assert long.images_s == pytest.approx(4 * short.images_s, rel=0.15)


def test_an_uplink_decides_where_it_is_the_narrowest() -> None:
    """By hand: 80 Mbit/s carry a hundred images of 100 kB."""
    costs = replace(COSTS, image_bytes=100_000)
    found = simulate(
        Plan(workers=2, device_images_s=500, uplink_bits_s=80e6, measured_s=256.0), costs
    )
    assert found.images_s == pytest.approx(100, rel=0.1)
    assert found.busiest == "uplink"


def test_the_same_plan_gives_the_same_figures() -> None:
    plan = Plan(workers=3, device_images_s=300, measured_s=5.0)
    assert simulate(plan, COSTS) == simulate(plan, COSTS)
