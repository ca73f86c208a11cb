r"""Rounds of design points, from the prior to the posterior."""

import functools
from collections.abc import Generator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._driver import Progress, drive
from .._types import Array, Float, Key
from ._design import NUM_CANDIDATES, Approach, Region, approach, are_alike
from ._gradient_process import GradientProcess
from ._pooled import fit
from ._slopes import Chains, Slopes


class Found(NamedTuple):
    """Where a search ended."""

    process: GradientProcess
    region: Region
    slopes: Slopes
    error: float
    problems: tuple[str, ...]


class Search(NamedTuple):
    """A search for the posterior of `data`; without data, one look at all of the prior."""

    chains: Chains
    prior: Region
    data: Array | None
    num_points: int
    max_rounds: int
    tolerance: float

    def run(self, rng_key: Key, progress_bar: bool) -> Found:
        """Where the rounds end; Ctrl-C stops them between two, and abandons them."""
        rounds, found = self._rounds(rng_key), []

        def call(length: int) -> Progress:
            try:
                return Progress(1, next(rounds))
            except StopIteration as end:
                found.append(end.value)
                return Progress(0, "", ends=True)

        most = _ROUNDS_OF_A_PRIOR if self.data is None else self.max_rounds + _PILOTS - 1
        bar = {"progress_bar": progress_bar, "resume": None, "label": "surrogate of log Z"}
        drive(call, most + 1, **bar)
        return found[0]

    def _rounds(self, rng_key: Key) -> Generator[str, None, Found]:
        """One look per step, with a text that says how far it has come."""
        seed = np.random.default_rng(np.asarray(jr.randint(rng_key, (4,), 0, 2**31 - 1)))
        slopes, region = self._look(jr.fold_in(rng_key, 0), self.prior, seed), self.prior
        yield "prior"
        num_pilots = _ROUNDS_OF_A_PRIOR if self.data is None else _PILOTS
        for i in range(1, num_pilots):
            more = self._look(jr.fold_in(rng_key, self.max_rounds + i), self.prior, seed)
            slopes = slopes.joined(more)
            yield "prior"
        if self.data is None:
            process = fit(self.chains, slopes, region)
            return Found(process, region, slopes, float("nan"), _unmixed(slopes, region))
        process, problems = fit(self.chains, slopes, region), ()
        near = self.approach(process, region, Approach(region, slopes.points, 0.0), seed)
        for i in range(1, self.max_rounds):
            slopes = slopes.joined(self._look(jr.fold_in(rng_key, i), near.region, seed))
            region = near.region
            process = fit(self.chains, _near(slopes, region), region)
            near = self.approach(process, region, near, seed)
            error = self._error(process, near)
            yield f"t {near.temperature:.2g}, n log Z +- {error:.2g}"
            is_known = near.temperature == 1 and error <= self.tolerance
            if is_known and are_alike(near.region, region):
                break
        else:
            problems = (self._too_large(near, self._error(process, near)),)
        problems += _unmixed(_near(slopes, region), region)
        error = self._error(process, near)
        return Found(process, region, _near(slopes, region), error, problems)

    def approach(
        self,
        process: GradientProcess,
        fitted: Region,
        last: Approach,
        seed: np.random.Generator,
    ) -> Approach:
        assert self.data is not None
        log_likelihood = functools.partial(_log_likelihoods, self.chains, self.data)
        regions = self.prior, fitted, last
        return approach(log_likelihood, process, len(self.data), *regions, seed)

    def _look(self, rng_key: Key, region: Region, seed: np.random.Generator) -> Slopes:
        """Gradients at points that fill a region; those that are not finite are left out."""
        points = region.points(self.num_points, seed)
        found = self.chains.slopes(rng_key, points, self.data)
        return _finite(found)

    def _error(self, process: GradientProcess, near: Approach) -> float:
        r"""The error of $n\log Z$ over the posterior, up to a constant."""
        assert self.data is not None
        errors = process.errors(near.points, near.region.center)
        return float(len(self.data) * np.sqrt(np.mean(errors**2)))

    def _too_large(self, near: Approach, error: float) -> str:
        where = "the posterior" if near.temperature == 1 else "a tempered posterior"
        return (
            f"after {self.max_rounds} rounds n log Z is known to {error:.2g} over {where}, not "
            f"to the `tolerance` of {self.tolerance:g}: draw more `num_samples`, or allow more "
            "`max_rounds`"
        )


#: Rounds that fill a prior, without data and with them.
_ROUNDS_OF_A_PRIOR, _PILOTS = 4, 2


def _near(slopes: Slopes, region: Region) -> Slopes:
    return slopes.where(region.contains(slopes.points))


def _finite(slopes: Slopes) -> Slopes:
    numbers = np.concatenate([slopes.gradients[:, None], slopes.noise], 1)
    is_finite = np.asarray(np.isfinite(numbers).all((1, 2)))
    if np.mean(is_finite) < _LEAST_FINITE:
        first = slopes.points[np.argmin(is_finite)]
        raise ValueError(
            f"The gradient of the energy is not finite at {np.sum(~is_finite)} of "
            f"{len(is_finite)} design points, the first at the unconstrained parameters "
            f"{first}: narrow `theta` to where the family has a normaliser."
        )
    return slopes.where(is_finite)


#: The least share of design points whose gradients must be finite.
_LEAST_FINITE = 0.75


def _unmixed(slopes: Slopes, region: Region) -> tuple[str, ...]:
    """What R-hat says about chains; their errors already contain how they differ."""
    bad = slopes.rhat > _MOST_RHAT
    if np.mean(bad) <= _FEW:
        return ()
    worst = slopes.points[np.argmax(slopes.rhat)]
    return (
        f"chains at {np.sum(bad)} of {len(bad)} design points have not mixed, R-hat is up to "
        f"{np.max(slopes.rhat):.3g}, at the unconstrained parameters {worst}: a longer "
        "`num_warmup`, or another `kernel`",
    )


#: R-hat above which chains have not mixed, and the share of points where that is tolerated.
_MOST_RHAT, _FEW = 1.2, 0.1


def _log_likelihoods(chains: Chains, data: Array, points: np.ndarray) -> np.ndarray:
    assert len(points) == NUM_CANDIDATES
    return np.asarray(_compiled(chains, data, jnp.asarray(points, float)), float)


@eqx.filter_jit
def _compiled(chains: Chains, data: Array, points: Float[Array, "n d"]) -> Float[Array, " n"]:
    def one(z: Array) -> Array:
        return -jnp.sum(jax.vmap(chains.family(z))(data))

    return jax.lax.map(one, points, batch_size=_BATCH)


#: Points whose likelihood is evaluated at once.
_BATCH = 32
