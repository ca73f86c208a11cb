"""What to do next about the problems of a report."""

from collections.abc import Iterable, Mapping


def next_step(problems: Iterable[str], advice: Mapping[str, str]) -> list[str]:
    """A line with the first advice whose key occurs in a problem; the key `""` always does."""
    problems = list(problems)
    found = (step for key, step in advice.items() if any(key in text for text in problems))
    return [f"What to do next: {step}" for step in found][:1]
