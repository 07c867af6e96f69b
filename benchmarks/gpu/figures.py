"""What a run found: figures with their targets, comparisons with the CPU, and how they are shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Detail = float | int | str


@dataclass(frozen=True)
class Figure:
    """A figure with its target.

    value: None where it was not measured; ``reason`` says why. target: what it should reach.
    at_most: whether the target is a ceiling, else a floor. unit: what the value is a ratio of.
    details: what it was made of, times in microseconds.
    """

    name: str
    value: float | None
    target: float
    at_most: bool
    unit: str
    reason: str = ""
    details: Mapping[str, Detail] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where nothing was measured."""
        if self.value is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


@dataclass(frozen=True)
class Check:
    """A comparison with numpy that was made before anything was timed.

    largest: the largest difference seen. allowed: the limit. unit: of both.
    """

    name: str
    largest: float
    allowed: float
    unit: str

    @property
    def passed(self) -> bool:
        """Whether the difference is a number within the limit."""
        return self.largest <= self.allowed


@dataclass(frozen=True)
class Target:
    """What a figure should reach. Fields as in Figure."""

    name: str
    target: float
    at_most: bool
    unit: str

    def measured(self, value: float, details: Mapping[str, Detail]) -> Figure:
        """The figure with its value."""
        return Figure(self.name, value, self.target, self.at_most, self.unit, details=details)

    def not_measured(self, reason: str) -> Figure:
        """The figure without one."""
        return Figure(self.name, None, self.target, self.at_most, self.unit, reason)


def figure_record(figure: Figure, meaningless: str | None) -> dict[str, object]:
    """A figure for the JSON file. meaningless: why no figure of this run counts, or None.

    ``met`` is null where nothing was measured and where the figure does not count.
    """
    return {
        "name": figure.name,
        "value": figure.value,
        "unit": figure.unit,
        "target": figure.target,
        "at_most": figure.at_most,
        "met": None if meaningless else figure.met,
        "counts": meaningless is None and figure.value is not None,
        "not_measured": figure.reason or None,
        "details": dict(figure.details),
    }


def check_record(check: Check) -> dict[str, object]:
    """A comparison for the JSON file."""
    return {
        "name": check.name,
        "largest_difference": check.largest,
        "allowed": check.allowed,
        "unit": check.unit,
    }


def table(checks: Sequence[Check], figures: Sequence[Figure], meaningless: str | None) -> str:
    """Comparisons and figures as lines of text."""
    wide = max(len(name) for name in [*(c.name for c in checks), *(f.name for f in figures)])
    lines = ["largest difference from numpy, before anything was timed"]
    lines += [f"  {c.name:{wide}}  {c.largest:10.2g} {c.unit} (allowed {c.allowed:g})" for c in checks]
    lines += ["", "figures" if meaningless is None else f"figures ({meaningless})"]
    for figure in figures:
        bound = f"{'at most' if figure.at_most else 'at least'} {figure.target:g}"
        if figure.value is None:
            lines.append(f"  {figure.name:{wide}}  not measured ({bound}): {figure.reason}")
            continue
        said = "does not count" if meaningless else "met" if figure.met else "NOT met"
        lines.append(f"  {figure.name:{wide}}  {figure.value:10.3f}  {bound}: {said}  [{figure.unit}]")
        details = (f"{key} {_short(value)}" for key, value in figure.details.items())
        lines.append(f"  {'':{wide}}  {', '.join(details)}")
    return "\n".join(lines)


def _short(value: Detail) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
