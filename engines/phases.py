"""The builder's nested phases as one number from 0 to 1."""

from dataclasses import dataclass


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class PhaseFraction:
    """Follows TensorRT's IProgressMonitor.

    A phase has a known number of steps, and a phase inside it fills the step that is under way. Steps differ
    a thousandfold in length and the builder does not say how long they are, so the number is honest about
    the order of the work and not about its duration. It never falls.
    """

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._reached = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> float:
        """A phase of ``steps`` steps begins inside ``parent``. Returns the fraction reached."""
        self._phases[name] = _Phase(parent, max(steps, 1))
        return self._update()

    def step(self, name: str, index: int) -> float:
        """Step ``index``, counted from 0, of a phase is complete. Returns the fraction reached."""
        phase = self._phases.get(name)
        if phase is not None:
            phase.done = min(max(phase.done, index + 1), phase.steps)
        return self._update()

    def finish(self, name: str) -> float:
        """A phase ends, having taken all its steps or not. Returns the fraction reached."""
        phase = self._phases.get(name)
        if phase is not None:
            phase.done = phase.steps
            self._update()
            del self._phases[name]
        return self._reached

    def _update(self) -> float:
        roots = [name for name, phase in self._phases.items() if phase.parent not in self._phases]
        self._reached = max([self._reached, *(self._fraction(name) for name in roots)])
        return self._reached

    def _fraction(self, name: str) -> float:
        phase = self._phases[name]
        inner = [self._fraction(child) for child, other in self._phases.items() if other.parent == name]
        return min((phase.done + max(inner, default=0.0)) / phase.steps, 1.0)
