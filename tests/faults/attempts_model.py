"""What attempts at one partition do to what they share, as a machine of states: see docs/fencing.md.

Shared are the output and the stages beside it, one for each work (input, prompt, model and settings). Each action is
one that no other attempt can come into; between two of them an attempt may stand still for hours, or die.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Store:
    """How an output is replaced."""

    LOCAL = "looks and replaces in one turn"
    CONDITIONAL = "looks, then replaces on condition that nothing has changed"
    UNCONDITIONAL = "looks, then replaces"


class At:
    """Where an attempt is: plain texts, for they are hashed a million times."""

    IDLE = "not begun"
    WORKING = "has looked at the output, and computes"
    READY = "its file is whole, and about to be published"
    CHECKED = "what may be replaced was still there"
    PUBLISHED = "the output is its own, the stage not yet removed"
    DONE = "ended: published"
    LEFT = "ended: another has done the same work"
    SUPERSEDED_BY_NEWER = "ended: other work of an attempt that began later is there"
    SUPERSEDED_BY_OLDER = "ended: other work of an attempt that began earlier is there"
    DEAD = "killed"


LIVING = (At.WORKING, At.READY, At.CHECKED, At.PUBLISHED)
ENDED_WELL = (At.DONE, At.LEFT)


class Output(NamedTuple):
    """What lies at the output's place."""

    version: int
    attempt: int


class Attempt(NamedTuple):
    """One attempt.

    Args:
        work: which work it does; attempts at the same work write outputs that are as good as each other.
        found: the version of the output that it may replace; ``None``: none.
        older: the other works whose stages were there when it made its own.
        has_file: whether its file lies in its stage, or on a store without conditions its upload.
        begun: the order in which attempts began.
    """

    work: str
    at: str = At.IDLE
    found: int | None = None
    older: frozenset[str] = frozenset()
    has_file: bool = False
    begun: int = 0


class World(NamedTuple):
    """Everything that attempts share, and each of them."""

    store: str
    attempts: tuple[Attempt, ...]
    output: Output | None = None
    stages: frozenset[str] = frozenset()
    versions: int = 0
    begun: int = 0
    removals: int = 0

    def actions(self, *, removals: int = 0) -> Iterator[tuple[str, int]]:
        """What may happen next: a name and, where it is an attempt's, its number."""
        if self.output is not None and self.removals < removals:
            yield "remove", -1
        for number, attempt in enumerate(self.attempts):
            name = {At.IDLE: "begin", At.WORKING: "finish", At.CHECKED: "write", At.PUBLISHED: "tidy"}.get(attempt.at)
            if attempt.at is At.READY:
                name = "write" if self.store is Store.LOCAL else "check"
            if name == "begin" and any(
                one.at is At.IDLE and one.work == attempt.work for one in self.attempts[:number]
            ):
                continue  # which of two that are alike begins first makes no difference
            if name is not None:
                yield name, number
            if attempt.at in LIVING:
                yield "die", number

    def after(self, name: str, number: int) -> World:
        """The world after an action."""
        if name == "remove":
            return self._replace(output=None, removals=self.removals + 1)
        return ACTIONS[name](self, number)

    def _with(self, number: int, **changes: Any) -> tuple[Attempt, ...]:
        changed = self.attempts[number]._replace(**changes)
        return (*self.attempts[:number], changed, *self.attempts[number + 1 :])

    def begin(self, number: int) -> World:
        work, there = self.attempts[number].work, self.output
        if there is not None and self.attempts[there.attempt].work == work:
            return self._leave(number, At.LEFT, frozenset())
        return self._replace(
            attempts=self._with(
                number,
                at=At.WORKING,
                found=None if there is None else there.version,
                older=self.stages - {work},
                has_file=self.store is Store.LOCAL,
                begun=self.begun,
            ),
            stages=self.stages | {work},
            begun=self.begun + 1,
        )

    def finish(self, number: int) -> World:
        return self._replace(attempts=self._with(number, at=At.READY))

    def check(self, number: int) -> World:
        if self.changed_for(number):
            return self._look_again(number)
        has_file = self.store is Store.UNCONDITIONAL
        return self._replace(attempts=self._with(number, at=At.CHECKED, has_file=has_file))

    def write(self, number: int) -> World:
        if self.store is not Store.UNCONDITIONAL and self.changed_for(number):
            return self._look_again(number)
        if self.store is not Store.CONDITIONAL and not self.attempts[number].has_file:
            return self._look_again(number)
        return self._replace(
            attempts=self._with(number, at=At.PUBLISHED),
            output=Output(self.versions, number),
            versions=self.versions + 1,
        )

    def _look_again(self, number: int) -> World:
        """What was found is there no more."""
        mine, there = self.attempts[number], self.output
        if there is None or there.version == mine.found:
            found = None if there is None else there.version
            again = self._with(number, at=At.WORKING, found=found, has_file=self.store is Store.LOCAL)
            return self._replace(attempts=again, stages=self.stages | {mine.work})
        other = self.attempts[there.attempt]
        if other.work == mine.work:
            return self._leave(number, At.LEFT, self._stages_left_by(number))
        ending = At.SUPERSEDED_BY_NEWER if other.begun > mine.begun else At.SUPERSEDED_BY_OLDER
        return self._replace(attempts=self._with(number, at=ending))

    def tidy(self, number: int) -> World:
        return self._leave(number, At.DONE, self._stages_left_by(number))

    def die(self, number: int) -> World:
        return self._replace(attempts=self._with(number, at=At.DEAD))

    def _leave(self, number: int, at: str, stages: frozenset[str]) -> World:
        """End well, and remove other stages than these, with all that lies in them."""
        removed = self.stages - stages
        attempts = [one._replace(has_file=one.has_file and one.work not in removed) for one in self.attempts]
        attempts[number] = attempts[number]._replace(at=at, has_file=False)
        return self._replace(attempts=tuple(attempts), stages=stages)

    def _stages_left_by(self, number: int) -> frozenset[str]:
        """Stages of work that began after this attempt; its own and older ones are removed."""
        return self.stages - {self.attempts[number].work} - self.attempts[number].older

    def changed_for(self, number: int) -> bool:
        """Whether what an attempt may replace is not what is there."""
        there = None if self.output is None else self.output.version
        return there != self.attempts[number].found


ACTIONS: dict[str, Callable[[World, int], World]] = {
    "begin": World.begin,
    "finish": World.finish,
    "check": World.check,
    "write": World.write,
    "tidy": World.tidy,
    "die": World.die,
}


def reachable(start: World, *, removals: int = 0) -> Iterator[tuple[World, tuple[str, int], World]]:
    """Every step from every world that can come about, in whatever order things happen."""
    seen, ahead = {start}, [start]
    while ahead:
        world = ahead.pop()
        for action in world.actions(removals=removals):
            following = world.after(*action)
            yield world, action, following
            if following not in seen:
                seen.add(following)
                ahead.append(following)
