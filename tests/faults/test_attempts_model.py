"""All orders in which up to three attempts at one partition can act, by the model of docs/fencing.md."""

from __future__ import annotations

import functools

import pytest

from tests.faults.attempts_model import ENDED_WELL, LIVING, At, Attempt, Store, World, reachable

# With fewer attempts, nothing comes about that does not here before the last one begins.
WORKS = [("A", "A", "A"), ("A", "A", "B"), ("A", "B", "C")]
SAFE = (Store.LOCAL, Store.CONDITIONAL)
STORES = (*SAFE, Store.UNCONDITIONAL)
NAMES = {Store.LOCAL: "local", Store.CONDITIONAL: "conditional", Store.UNCONDITIONAL: "unconditional"}.__getitem__


@functools.cache
def steps(store: str, works: tuple[str, ...]) -> list[tuple[World, tuple[str, int], World]]:
    """Every step that can come about; where two works meet, somebody may also remove the output."""
    removals = 1 if len(set(works)) == 2 else 0
    return list(reachable(World(store, tuple(Attempt(work) for work in works)), removals=removals))


def publishes(world: World, action: tuple[str, int], following: World) -> bool:
    return action[0] == "write" and following.attempts[action[1]].at is At.PUBLISHED


@pytest.mark.parametrize("works", WORKS, ids="".join)
@pytest.mark.parametrize("store", SAFE, ids=NAMES)
def test_whoever_publishes_replaces_what_it_found(store: str, works: tuple[str, ...]) -> None:
    published = 0
    for world, action, following in steps(store, works):
        if publishes(world, action, following):
            published += 1
            assert not world.changed_for(action[1])
    assert published


@pytest.mark.parametrize("works", WORKS, ids="".join)
@pytest.mark.parametrize("store", SAFE, ids=NAMES)
def test_the_work_of_one_that_began_later_is_never_replaced(store: str, works: tuple[str, ...]) -> None:
    for world, action, following in steps(store, works):
        if publishes(world, action, following) and world.output is not None:
            assert world.attempts[world.output.attempt].begun < world.attempts[action[1]].begun


@pytest.mark.parametrize("works", WORKS, ids="".join)
@pytest.mark.parametrize("store", SAFE, ids=NAMES)
def test_the_same_work_is_published_once(store: str, works: tuple[str, ...]) -> None:
    for world, action, following in steps(store, works):
        if publishes(world, action, following) and world.output is not None:
            assert world.attempts[world.output.attempt].work != world.attempts[action[1]].work


@pytest.mark.parametrize("works", WORKS, ids="".join)
@pytest.mark.parametrize("store", STORES, ids=NAMES)
def test_an_attempt_ends_well_only_where_its_work_is_there(store: str, works: tuple[str, ...]) -> None:
    for world, (name, number), following in steps(store, works):
        if name != "remove" and following.attempts[number].at is At.LEFT:
            assert world.output is not None
            assert world.attempts[world.output.attempt].work == world.attempts[number].work


@pytest.mark.parametrize("works", WORKS, ids="".join)
@pytest.mark.parametrize("store", STORES, ids=NAMES)
def test_in_the_end_there_is_an_output_and_nothing_staged_of_those_who_ended_well(
    store: str, works: tuple[str, ...]
) -> None:
    endings = 0
    for _, _, world in steps(store, works):
        if world.removals == 0 and all(attempt.at not in (At.IDLE, *LIVING) for attempt in world.attempts):
            endings += 1
            unfinished = {attempt.work for attempt in world.attempts if attempt.at not in ENDED_WELL}
            assert world.stages <= unfinished
            if any(attempt.at is not At.DEAD for attempt in world.attempts):
                assert world.output is not None
    assert endings


@pytest.mark.parametrize("works", WORKS, ids="".join)
def test_what_remains_without_conditions_is_the_moment_between_looking_and_replacing(works: tuple[str, ...]) -> None:
    """Whatever else happens, an output is lost only to an attempt that had looked before it was published."""
    lost = 0
    for world, action, following in steps(Store.UNCONDITIONAL, works):
        if publishes(world, action, following) and world.changed_for(action[1]):
            lost += 1
            assert world.attempts[action[1]].at is At.CHECKED
    assert lost
