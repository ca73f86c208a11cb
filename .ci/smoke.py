"""Learn, normalise and sample an energy with the installed library, in half a minute."""

import time
from importlib import metadata

import jax
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import MCMC

import numpyro_ebm as ebm

START = time.perf_counter()
QUIET = {"progress_bar": False}
data = 2 + jax.random.normal(jax.random.key(0), (500, 2))
network = ebm.MLPEnergy(2, key=jax.random.key(1))
estimator = ebm.Estimator(ebm.DenoisingScoreMatching(0.3), optax.adam(1e-2))
fit = estimator.run(jax.random.key(2), 600, network, data, batch_size=100, **QUIET)
log_z = ebm.log_partition(
    jax.random.key(3), fit.energy, ebm.Quadrature([-6.0, -6.0], [10.0, 10.0])
)
draws = ebm.sample(
    jax.random.key(4), fit.energy, ebm.NUTS(), num_warmup=200, num_samples=200, **QUIET
)
tree = ebm.to_arviz(draws)
assert abs(float(tree["posterior"]["x"].mean()) - 2) < 0.4, tree
tree.to_netcdf("draws.nc")
ebm.plots.plot_trace(tree)
ebm.plot_energy(fit.energy, draws.values)


def model() -> None:
    x = numpyro.sample("x", ebm.EnergyDistribution(fit.energy))
    numpyro.sample("y", dist.Normal(x, 0.1).to_event(1), obs=jax.numpy.array([1.5, 2.5]))


mcmc = MCMC(ebm.MALA(model), num_warmup=200, num_samples=200, **QUIET)
mcmc.run(jax.random.key(5))
assert abs(mcmc.get_samples()["x"].mean(0) - jax.numpy.array([1.5, 2.5])).max() < 0.2
assert ebm.__version__ == metadata.version("numpyro-ebm")
print(f"log Z {log_z.estimate:.3f}, {ebm.mixing_report(tree)}")
print(f"numpyro_ebm {ebm.__version__} works: {time.perf_counter() - START:.0f} s")
