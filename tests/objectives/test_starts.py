"""Chains that start at resampled noise: modes in their proportions, at each condition."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import numpyro_ebm as ebm
from numpyro_ebm.objectives import FromResampledNoise

NOISE = dist.Normal(0, 4.0)


class Modes(eqx.Module):
    """Two narrow modes at -2 and 2; the upper one has the share sigmoid(logit + slope x)."""

    logit: jax.Array
    slope: jax.Array

    def __call__(self, y, x):
        logit = self.logit + self.slope * x
        heights = jnp.stack([jax.nn.log_sigmoid(-logit), jax.nn.log_sigmoid(logit)])
        return -jax.nn.logsumexp(heights - 0.5 * ((y - jnp.array([-2.0, 2.0])) / 0.25) ** 2)


def conditional(logit, slope):
    return ebm.ConditionalEnergy(Modes(jnp.array(logit), jnp.array(slope)), ())


def upper_share(starts, x):
    """Of the starts at each condition, and the truth for `conditional(0, 2)`."""
    shares = jnp.stack([(starts[x == value] > 0).mean() for value in np.unique(x)])
    return shares, jax.nn.sigmoid(2 * np.unique(x))


def test_starts_have_the_law_of_each_condition():
    x = jnp.tile(jnp.array([-1.0, 0.0, 1.0]), 20_000)
    energy, start = conditional(0.0, 2.0), FromResampledNoise(200, NOISE)
    batch = ebm.objectives.Batch(jnp.zeros(len(x)), x)
    noise = start.init(jr.key(0), energy, batch.points)
    starts, _ = jax.jit(
        lambda key: start.begin(
            key, noise, batch.points, lambda y: batch.with_points(y).energies(energy)
        )
    )(jr.key(1))
    shares, truth = upper_share(starts.points, x)
    errors = np.sqrt(truth * (1 - truth) / 20_000)
    # Resampling of 200 proposals, of which 25 count, is biased by a few thousandths.
    assert (np.abs(shares - truth) < 4 * errors + 5e-3).all()
    upper = starts.points[starts.points > 0]
    np.testing.assert_allclose([upper.mean(), upper.std()], [2.0, 0.25], atol=0.01)


def fit(start, optim):
    x = jr.uniform(jr.key(2), (4000,), minval=-1, maxval=1)
    up_key, y_key = jr.split(jr.key(3))
    up = jr.bernoulli(up_key, jax.nn.sigmoid(1.0 + 2 * x))
    y = jnp.where(up, 2.0, -2.0) + 0.25 * jr.normal(y_key, x.shape)
    objective = ebm.ContrastiveDivergence(ebm.MALA(step_size=0.02), 5, start)
    run = ebm.Estimator(objective, optim).run
    return run(
        jr.key(4), 400, conditional(0.0, 0.0), (y, x), batch_size=500, progress_bar=False
    ).energy.fn


def test_contrastive_divergence_learns_the_shares_of_modes_by_default():
    fitted = fit(None, optax.adam(optax.cosine_decay_schedule(0.1, 400)))
    # Standard errors of a logistic regression on these data: .04 and .08.
    np.testing.assert_allclose([fitted.logit, fitted.slope], [1.0, 2.0], atol=0.25)


def test_chains_from_data_cannot_learn_the_shares():
    fitted = fit(ebm.FromData(), optax.sgd(1.0))
    np.testing.assert_allclose([fitted.logit, fitted.slope], 0, atol=1e-3)


@pytest.mark.parametrize("num", [0, 1, 2.5])
def test_bad_input(num):
    with pytest.raises((ValueError, TypeError), match="`num_proposals` must be"):
        FromResampledNoise(num)
