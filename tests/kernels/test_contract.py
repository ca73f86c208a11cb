"""What NumPyro's `MCMC` asks of a kernel, for each kernel."""

import pickle

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import COVARIANCE, KERNELS, MEAN, network, quick
from numpyro.infer import HMCECS, MCMC, DiscreteGibbs, DiscreteHMCGibbs, Gibbs, MixedHMC

import numpyro_ebm as ebm
from numpyro_ebm.kernels import AbstractKernel, AbstractMove, Adaptation

#: `make slow` tests the whole contract for all kernels, `make test` most of it for one.
each_kernel = pytest.mark.parametrize("Kernel", quick(KERNELS, ["MALA"]))
METHODS = ["sequential", "parallel", "vectorized"]
SLOW_METHODS = [pytest.param(method, marks=pytest.mark.slow) for method in METHODS[:2]]
each_method = pytest.mark.parametrize("method", [*SLOW_METHODS, "vectorized"])
ENERGY = ebm.Gaussian(MEAN, covariance_matrix=COVARIANCE)


def model(y=None):
    x = numpyro.sample("x", ebm.EnergyDistribution(ENERGY))
    scale = numpyro.sample("scale", dist.LogNormal(0, 1))
    numpyro.deterministic("norm", jnp.linalg.norm(x))
    numpyro.sample("y", dist.Normal(x, scale).to_event(1), obs=y)


Y = jnp.array([0.5, -1.0])


def mcmc(kernel, num_warmup=20, num_samples=30, **kwargs):
    return MCMC(
        kernel, num_warmup=num_warmup, num_samples=num_samples, **{**DEFAULTS, **kwargs}
    )


DEFAULTS = {"num_chains": 2, "chain_method": "vectorized", "progress_bar": False}


@pytest.mark.slow
@each_kernel
def test_chain_methods_draw_the_same_chains(Kernel, x64):
    draws = {}
    for method in METHODS:
        # What adapts amplifies the last bit.
        run = mcmc(Kernel(model, adapt_step_size=False), 0, 10, chain_method=method)
        run.run(jax.random.key(0), Y)
        draws[method] = run.get_samples(group_by_chain=True)
    assert draws["parallel"]["x"].shape == (2, 10, 2)
    assert set(draws["parallel"]) == {"x", "scale", "norm"}
    for method in METHODS:
        for name, value in draws[method].items():
            np.testing.assert_allclose(value, draws["sequential"][name], rtol=1e-10)


@each_kernel
@each_method
def test_a_run_resumes_where_it_stopped(Kernel, method, x64):
    kernel = Kernel(potential_fn=ENERGY)
    whole, parts = (mcmc(kernel, 20, n, chain_method=method) for n in (60, 30))
    whole.run(jax.random.key(0))
    parts.run(jax.random.key(0))
    first = parts.get_samples(group_by_chain=True)
    parts.post_warmup_state = parts.last_state
    parts.run(parts.last_state.rng_key)
    both = np.concatenate([first, parts.get_samples(group_by_chain=True)], axis=1)
    np.testing.assert_allclose(both, whole.get_samples(group_by_chain=True), rtol=1e-8)


@pytest.mark.slow
@each_kernel
@each_method
def test_new_data_after_warmup(Kernel, method):
    run = mcmc(Kernel(model), 200, 300, chain_method=method)
    run.warmup(jax.random.key(0), Y)
    step_size = run.post_warmup_state.adapt_state.step_size
    for data in (Y, Y + 1.0):
        run.run(jax.random.key(1), data)
        np.testing.assert_array_equal(run.last_state.adapt_state.step_size, step_size)
        assert run.get_extra_fields()["accept_prob"].mean() > 0.1


@each_kernel
@pytest.mark.parametrize("batched", [False, True])
def test_refresh_recomputes_what_the_state_caches(Kernel, batched):
    run = mcmc(Kernel(model), num_chains=2 if batched else 1)
    run.run(jax.random.key(0), Y)
    kernel, state = run.sampler, run.last_state
    fresh = kernel.refresh(state, (Y + 100.0,), {})
    assert (fresh.potential_energy > state.potential_energy + 10).all()
    again = kernel.refresh(fresh, (Y,), {})
    np.testing.assert_allclose(again.potential_energy, state.potential_energy, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, fresh.z, state.z)


@pytest.mark.slow
@each_kernel
def test_pickling(Kernel):
    run = mcmc(Kernel(model))
    run.run(jax.random.key(0), Y)
    run.post_warmup_state = run.last_state
    copy = pickle.loads(pickle.dumps(run))
    for one in (run, copy):
        one.run(jax.random.key(1), Y)
    jax.tree.map(np.testing.assert_array_equal, run.get_samples(), copy.get_samples())


@pytest.mark.slow
@each_kernel
def test_extra_fields_thinning_and_summary(Kernel, capsys):
    run = mcmc(Kernel(model), 200, 300, thinning=3)
    run.run(jax.random.key(0), Y, extra_fields=("z.x", "mean_accept_prob", "i"))
    fields = run.get_extra_fields(group_by_chain=True)
    assert fields["z.x"].shape == (2, 100, 2)
    assert fields["i"][0, -1] == 500
    np.testing.assert_allclose(
        fields["potential_energy"][0, -1], run.last_state.potential_energy[0], rtol=1e-5
    )
    assert fields["n_grad"].min() >= 1
    run.print_summary()
    assert "scale" in capsys.readouterr().out


@each_kernel
def test_progress_bar(Kernel, monkeypatch, capsys):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    run = mcmc(Kernel(model), num_chains=1, progress_bar=True)
    run.run(jax.random.key(0), Y)
    shown = "acc. prob=" if run.sampler.move.is_exact else "step size"
    assert shown in capsys.readouterr().err


@each_kernel
@pytest.mark.parametrize("key", [jax.random.key, jax.random.PRNGKey])
def test_typed_and_legacy_keys(Kernel, key):
    run = mcmc(Kernel(potential_fn=ENERGY))
    run.run(key(3))
    assert np.isfinite(run.get_samples()).all()


@each_kernel
def test_init_params_and_pytree_positions(Kernel):
    run = mcmc(Kernel(potential_fn=lambda z: 0.5 * z["a"] ** 2 + 0.5 * (z["b"] ** 2).sum()))
    start = {"a": np.full(2, 5.0), "b": np.ones((2, 3))}
    run.run(jax.random.key(0), init_params=start)
    assert run.get_samples()["b"].shape == (60, 3)
    frozen = Kernel(model, step_size=1e-14, adapt_step_size=False)
    run = mcmc(frozen, 0, 1, num_chains=1)
    run.run(jax.random.key(0), Y, init_params={"x": jnp.array([7.0, 7.0]), "scale": 0.5})
    np.testing.assert_allclose(run.get_samples()["x"][0], [7.0, 7.0], atol=1e-2)


@pytest.mark.slow
@each_kernel
def test_a_model_without_latents_and_a_model_argument_under_jit(Kernel):
    def observed(y):
        numpyro.sample("y", dist.Normal(0, 1), obs=y)
        numpyro.deterministic("twice", 2 * y)

    run = mcmc(Kernel(observed))
    run.run(jax.random.key(0), 1.5)
    assert (run.get_samples()["twice"] == 3).all()

    run = mcmc(Kernel(model), jit_model_args=True)
    for y in (Y, Y + 1):
        run.run(jax.random.key(0), y)


@each_kernel
@pytest.mark.parametrize("dense_mass", [False, True])
def test_metric_adaptation(Kernel, dense_mass):
    covariance = np.array([[9.0, 0.6], [0.6, 0.05]])
    dense = {"dense_mass": True} if dense_mass else {}
    if Kernel is ebm.UnadjustedLangevin:
        dense["target_accept_prob"] = 0.8  # At 0.99 it would not see the wide coordinate.
    if dense_mass and "MCLMC" in Kernel.__name__:
        pytest.skip("diagonal metrics only")
    kernel = Kernel(
        potential_fn=ebm.Gaussian(MEAN, covariance), adapt_mass_matrix=True, **dense
    )
    run = mcmc(kernel, 1000, 10, num_chains=8)
    run.run(jax.random.key(0))
    learnt = np.asarray(run.last_state.adapt_state.inverse_mass_matrix).mean(0)
    truth = covariance if dense_mass else np.diag(covariance)
    assert learnt.shape == truth.shape
    np.testing.assert_allclose(learnt, truth, rtol=0.5, atol=0.02)


@each_kernel
def test_a_nan_energy_rejects_and_does_not_poison_the_step_size(Kernel):
    # The square root is NaN outside of the half plane.
    kernel = Kernel(potential_fn=lambda x: jnp.sum(0.5 * x**2) - 0.5 * jnp.log(x[0]))
    run = mcmc(kernel, 300, 500, num_chains=8)
    run.run(jax.random.key(0), init_params=jnp.ones((8, 2)))
    assert np.isfinite(run.get_extra_fields()["adapt_state.step_size"]).all()
    draws = run.get_samples()
    assert np.isfinite(draws).all()
    assert (draws[:, 0] > 0).all()


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: ebm.MALA(model, ENERGY), ValueError, "Only one of `model` or `potential_fn`"),
        (lambda: mcmc(ebm.MALA()).run(jax.random.key(0)), ValueError, "`MALA` has no target"),
        (
            lambda: mcmc(ebm.NUTS(potential_fn=network())).run(jax.random.key(0)),
            ValueError,
            "Valid value of `init_params` must be provided with `potential_fn`",
        ),
        (
            lambda: mcmc(ebm.NUTS(potential_fn=ENERGY)).run(
                jax.random.key(0), init_params=jnp.zeros((2, 5, 2))
            ),
            ValueError,
            "That looks like a batch",
        ),
        (lambda: ebm.NUTS(potential_fn="energy"), TypeError, "must be an energy"),
        (
            lambda: mcmc(ebm.MALA(potential_fn=lambda x: jnp.log(x).sum())).run(
                jax.random.key(0), init_params=-jnp.ones((2, 2))
            ),
            ValueError,
            "not finite where a chain starts",
        ),
        (lambda: ebm.MALA(step_size=0.0), ValueError, "`step_size` must be positive"),
        (
            lambda: ebm.NUTS(target_accept_prob=1.0),
            ValueError,
            "`target_accept_prob` must lie between 0 and 1",
        ),
        (
            lambda: ebm.HMC(trajectory_length=None),
            ValueError,
            "At least one of `num_steps` or `trajectory_length` must be specified",
        ),
        (
            lambda: ebm.MALA(inverse_mass_matrix=-np.ones(2)),
            ValueError,
            "`inverse_mass_matrix` must be positive definite",
        ),
        (
            lambda: ebm.UnadjustedMCLMC(inverse_mass_matrix=np.eye(2)),
            ValueError,
            "must be a vector, the diagonal",
        ),
        (
            lambda: mcmc(ebm.AdjustedMCLMC(potential_fn=lambda x: x**2)).run(
                jax.random.key(0), init_params=jnp.ones(2)
            ),
            ValueError,
            "need two dimensions",
        ),
        (lambda: ebm.NUTS(max_tree_depth=0), ValueError, "`max_tree_depth` must be positive"),
    ],
)
def test_bad_input(run, error, message):
    with pytest.raises(error, match=message):
        run()


def test_diagnostics_fields_by_kind():
    assert "energy" not in ebm.MALA().default_fields
    assert not hasattr(ebm.kernels.KernelState, "num_steps")
    assert {"energy", "num_steps"} <= set(ebm.NUTS().default_fields)


def test_a_number_of_steps_and_a_length_fix_the_step_as_in_numpyro():
    with pytest.warns(UserWarning, match="If both `num_steps` and `trajectory_length`"):
        kernel = ebm.HMC(num_steps=5, trajectory_length=2.0)
    assert kernel.move.step_size == 0.4
    assert not kernel.adaptation.adapt_step_size
    assert ebm.HMC(num_steps=5, trajectory_length=None).adaptation.adapt_step_size


def two_blocks(y):
    x = numpyro.sample("x", dist.Normal(0, 1))
    log_scale = numpyro.sample("log_scale", dist.Normal(0, 1))
    shares = numpyro.sample("shares", dist.Dirichlet(jnp.ones(3)))
    numpyro.deterministic("scale", jnp.exp(log_scale))
    numpyro.sample("y", dist.Normal(x + shares @ jnp.arange(3.0), jnp.exp(log_scale)), obs=y)


@pytest.mark.slow
def test_blocks_of_numpyros_gibbs():
    blocks = [(ebm.MALA(two_blocks), ["x"]), (ebm.HMC(two_blocks), None)]
    run = MCMC(Gibbs(blocks), num_warmup=300, num_samples=2000, progress_bar=False)
    y = jnp.array([0.5, 1.5, 1.0, 0.9])
    run.run(jax.random.key(0), y)
    samples = run.get_samples()
    assert set(samples) == {"x", "log_scale", "shares", "scale"}
    np.testing.assert_allclose(samples["shares"].sum(-1), 1, rtol=1e-5)
    whole = mcmc(ebm.NUTS(two_blocks), 300, 2000)
    whole.run(jax.random.key(1), y)
    for name in ("x", "log_scale"):
        ours, theirs = (np.asarray(r.get_samples()[name]) for r in (run, whole))
        assert abs(ours.mean() - theirs.mean()) < 0.15
        assert abs(ours.std() / theirs.std() - 1) < 0.15


def test_discrete_sites_are_sampled_beside_our_kernels():
    """NumPyro's older ways to do so take its own HMC alone."""

    def shifted(y=None):
        c = numpyro.sample("c", dist.Bernoulli(0.3))
        x = numpyro.sample("x", dist.Normal(3.0 * c, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

    for Composite in (DiscreteHMCGibbs, MixedHMC, HMCECS):
        with pytest.raises(ValueError, match="inner_kernel must be an HMC"):
            Composite(ebm.HMC(shifted))
    blocks = Gibbs([(DiscreteGibbs(shifted), ["c"]), (ebm.NUTS(shifted), None)])
    run = MCMC(blocks, num_warmup=200, num_samples=2000, progress_bar=False)
    run.run(jax.random.key(0), jnp.array(1.2))
    densities = [
        np.exp(dist.Normal(mean, np.sqrt(2)).log_prob(1.2)) * share
        for mean, share in ((0.0, 0.7), (3.0, 0.3))
    ]
    # About 300 effective draws of a share of 0.26: three standard errors.
    share = run.get_samples()["c"].mean()
    assert abs(share - densities[1] / sum(densities)) < 0.075


def test_blocks_that_gibbs_cannot_have():
    def discrete():
        c = numpyro.sample("c", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(c, 1.0))

    def dynamic():
        low = numpyro.sample("low", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Uniform(low, low + 1.0))

    with pytest.raises(ValueError, match="Discrete latent sites"):
        Gibbs([(ebm.NUTS(discrete), None)]).init(jax.random.key(0), 10, None, (), {})
    blocks = [(ebm.NUTS(dynamic), ["x"]), (ebm.NUTS(dynamic), None)]
    with pytest.raises(ValueError, match="value-dependent supports"):
        Gibbs(blocks).init(jax.random.key(0), 10, None, (), {})


@pytest.mark.slow
def test_another_tree_depth_in_warm_up():
    kernel = ebm.NUTS(potential_fn=ENERGY, step_size=1e-3, max_tree_depth=(2, 4))
    run = mcmc(kernel, 5, 5, num_chains=1)
    run.warmup(jax.random.key(0), collect_warmup=True)
    assert run.get_extra_fields()["num_steps"].max() <= 3
    run.run(jax.random.key(1))
    assert run.get_extra_fields()["num_steps"].max() > 3


def test_potential_and_constraints_are_numpyros():
    ours, theirs = ebm.NUTS(model), numpyro.infer.NUTS(model)
    with pytest.raises(RuntimeError, match="`init`"):
        ours.get_potential_fn((Y,))
    z = ours.init(jax.random.key(0), 0, model_args=(Y,)).z
    theirs.init(jax.random.key(0), 0, None, model_args=(Y,), model_kwargs={})
    np.testing.assert_allclose(
        ours.get_potential_fn((Y,))(z), theirs.get_potential_fn((Y,))(z), rtol=1e-5
    )
    for deterministic in (False, True):
        ask = {"return_deterministic": deterministic}
        one, other = (kernel.get_constrain_fn((Y,), **ask)(z) for kernel in (ours, theirs))
        assert one.keys() == other.keys()
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, other)
    assert "norm" in one


class OwnMALA(AbstractMove):
    """BlackJAX's MALA, whose info knows of no divergence and no number of steps."""

    step_size: float
    inverse_mass_matrix: jax.Array | None = None

    def init(self, rng_key, position, energy):
        return blackjax.mcmc.mala.init(position, lambda x: -energy(x))

    def step(self, rng_key, state, energy):
        kernel = blackjax.mcmc.mala.build_kernel()
        return kernel(rng_key, state, lambda x: -energy(x), self.step_size)


class OwnBarker(OwnMALA):
    def init(self, rng_key, position, energy):
        return blackjax.mcmc.barker.init(position, lambda x: -energy(x))

    def step(self, rng_key, state, energy):
        kernel = blackjax.mcmc.barker.build_kernel()
        return kernel(rng_key, state, lambda x: -energy(x), self.step_size)


class OwnMCLMC(OwnMALA):
    """Its info has no acceptance."""

    def init(self, rng_key, position, energy):
        return blackjax.mcmc.mclmc.init(position, lambda x: -energy(x), rng_key)

    def step(self, rng_key, state, energy):
        kernel = blackjax.mcmc.mclmc.build_kernel()
        return kernel(
            rng_key, state, lambda x: -energy(x), jnp.ones(2), jnp.sqrt(2), self.step_size
        )


class OwnKernel(AbstractKernel):
    def __init__(self, move, potential_fn=None):
        super().__init__(None, potential_fn, move, Adaptation(True, False, False, 0.57))


@pytest.mark.parametrize("move", [OwnMALA(0.5), OwnBarker(0.5)], ids=["MALA", "Barker"])
def test_a_move_without_a_report_of_its_own(move):
    settings = {"num_warmup": 100, "num_samples": 100, "progress_bar": False}
    draws = ebm.sample(jax.random.key(0), ENERGY, OwnKernel(move), **settings)
    accepted = float(draws.accept_prob.mean())
    assert abs(accepted - 0.57) < 0.2
    assert not draws.stats["diverging"].any()
    assert (draws.stats["n_grad"] == 1).all()
    mcmc(OwnKernel(move, ENERGY)).run(jax.random.key(0))


def test_a_move_whose_info_has_no_acceptance_must_report():
    with pytest.raises(TypeError, match=r"`OwnMCLMC` must override `report.*`MCLMCInfo`"):
        ebm.sample(jax.random.key(0), ENERGY, OwnKernel(OwnMCLMC(0.5)), progress_bar=False)
