import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import ENERGIES, network
from numpyro.distributions import biject_to, constraints

import numpyro_ebm as ebm

KEY = jax.random.key(0)
NORMAL = dist.Normal(0, 1).expand([2]).to_event(1)
#: Functions of one's own come with `like`.
FOREIGN = "Given", "Marginal"
OWN = {
    **{name: make for name, make in ENERGIES.items() if name not in FOREIGN},
    "ConvEnergy": lambda: ebm.ConvEnergy((5, 5), (2,), activation=jnp.tanh, key=KEY),
    "Tilted network": lambda: ebm.Tilted(network(), NORMAL),
    "pixels": lambda: ebm.Transformed(
        ebm.MLPEnergy(3, reference=None, key=KEY), ebm.energies.Logit(17)
    ),
    "positive": lambda: ebm.Transformed(ENERGIES["Ring"](), biject_to(constraints.positive)),
    "distribution": lambda: ebm.energies.from_distribution(
        dist.TruncatedNormal(0.0, 1.0, low=-1.0)
    ),
    "covariance": lambda: ebm.energies.from_distribution(
        dist.MultivariateNormal(np.zeros(2), np.eye(2))
    ),
    "tree": lambda: {"a": ENERGIES["Ring"](), "b": [jnp.arange(3), (None, 2.5)]},
}


@pytest.mark.parametrize("make", OWN.values(), ids=OWN)
def test_there_and_back(make, tmp_path):
    energy = make()
    ebm.save(tmp_path / "energy.ebm", energy)
    path = tmp_path / "energy.ebm"
    blank = jax.tree.map(lambda x: 0 * x if eqx.is_array(x) else x, energy)
    for again in (ebm.load(path), ebm.load(path, like=blank)):
        assert jax.tree.structure(again) == jax.tree.structure(energy)
        assert eqx.tree_equal(again, energy)
        assert repr(again) == repr(energy)


@pytest.mark.parametrize("name", FOREIGN)
def test_functions_of_ones_own_come_with_like(name, tmp_path):
    energy, path = ENERGIES[name](), tmp_path / "energy.ebm"
    ebm.save(path, energy)
    with pytest.raises(ValueError, match=r"part of type `builtins.function`.*like=that_energy"):
        ebm.load(path)
    again = ebm.load(path, like=jax.tree.map(lambda x: 0 * x if eqx.is_array(x) else x, energy))
    x = jnp.array([0.3, -1.2])
    assert again(x) == energy(x)


class Mine(ebm.AbstractEnergy):
    weight: jax.Array
    power: int = eqx.field(static=True)
    event_shape: tuple = eqx.field(static=True, default=(2,))

    def __call__(self, x):
        return self.weight * jnp.sum(jnp.abs(x) ** self.power)


def test_classes_of_ones_own_come_with_like(tmp_path):
    path = tmp_path / "energy.ebm"
    ebm.save(path, Mine(jnp.array(2.0), 4) + NORMAL)
    with pytest.raises(ValueError, match=r"test_saving.Mine`, which is not of this library"):
        ebm.load(path)
    again = ebm.load(path, like=Mine(jnp.array(0.0), 4) + NORMAL)
    assert again.terms[0].weight == 2


def test_precision_survives(tmp_path, x64):
    path = tmp_path / "energy.ebm"
    ebm.save(path, ebm.Gaussian([1 / 3], [[1.0]]))
    assert ebm.load(path).loc.dtype == jnp.float64
    assert ebm.load(path).loc == 1 / 3
    jax.config.update("jax_enable_x64", False)
    with pytest.raises(ValueError, match="jax_enable_x64"):
        ebm.load(path)


def test_low_precision_survives(tmp_path):
    ebm.save(tmp_path / "x", jnp.arange(3, dtype=jnp.bfloat16))
    assert ebm.load(tmp_path / "x").dtype == jnp.bfloat16


def other(**changes):
    return ebm.MLPEnergy(
        **{"event_shape": 2, "width_size": 8, "depth": 2, "key": KEY, **changes}
    )


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (lambda: ENERGIES["Ring"](), "holds a `Tilted`, `like` is a `Ring`"),
        (
            lambda: other(width_size=9),
            r"holds float32\[8\] as .energy.network.layers\[0\].bias, .* has float32\[9\]",
        ),
        (lambda: other(depth=3), r"disagrees with `like`"),
        (
            lambda: other(activation=jnp.tanh),
            r"activation.function` is silu in the file, and tanh here",
        ),
        (
            lambda: other(spectral_norm=True),
            r"`energy.energy.spectral_norm` is False in the file",
        ),
    ],
)
def test_a_like_that_differs_is_an_error(like, message, tmp_path):
    ebm.save(tmp_path / "energy.ebm", other())
    with pytest.raises(ValueError, match=message):
        ebm.load(tmp_path / "energy.ebm", like=like())


#: What a version wrote in which networks held their own reference.
BEFORE = Path(__file__).parent / "data" / "networks_before.ebm"


def test_files_of_networks_with_their_own_reference_are_read():
    wide = ebm.Gaussian([0.0, 1.0], [[1.0, 0.5], [0.5, 2.0]])
    expected = {
        "mlp": ebm.MLPEnergy(2, 3, 1, spectral_norm=True, key=KEY),
        "conv": ebm.ConvEnergy((3, 3), (2,), activation=jnp.tanh, reference=1.5, key=KEY),
        "bare": ebm.MLPEnergy(2, 3, 1, reference=None, key=KEY),
        "part": 2 * ebm.MLPEnergy(2, 3, 1, reference=wide, key=KEY),
    }
    energies = ebm.load(BEFORE)
    assert eqx.tree_equal(energies, expected, rtol=1e-5, atol=1e-7)
    points = [jax.random.normal(jax.random.key(3), e.event_shape) for e in energies.values()]
    values = [energy(x) for energy, x in zip(energies.values(), points, strict=True)]
    np.testing.assert_allclose(values, [3.2012744, 13.978492, -0.52710915, 6.183628], rtol=1e-5)
    with pytest.raises(ValueError, match=r"network held its own reference.*without `like`"):
        ebm.load(BEFORE, like=expected)


class Holder(eqx.Module):
    part: Any


def test_a_like_that_has_its_network_elsewhere_is_refused(tmp_path):
    energy = ebm.MLPEnergy(2, 3, 1, key=KEY)
    ebm.save(tmp_path / "x", Holder(energy.energy))
    with pytest.raises(ValueError, match="without a reference, or is from a version"):
        ebm.load(tmp_path / "x", like=Holder(energy))


def rewrite(path, change):
    """The same file with another description, as somebody might forge it."""
    body = path.read_bytes().split(b"\n", 1)[1]
    with zipfile.ZipFile(io.BytesIO(body)) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    description = json.loads(parts["description.json"])
    change(description)
    forged = io.BytesIO()
    with zipfile.ZipFile(forged, "w") as file:
        for name, data in {**parts, "description.json": json.dumps(description)}.items():
            file.writestr(name, data)
    digest = hashlib.sha256(forged.getvalue()).hexdigest()
    path.write_bytes(f"numpyro_ebm {digest}\n".encode() + forged.getvalue())


def nested(description):
    code = {}
    for _ in range(450):
        code = {"list": [code]}
    description["energy"] = code


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=99), "has format 99, this version reads 2"),
        (
            lambda d: d["energy"].update(module="Popen"),
            "needs `Popen`, which this version",
        ),
        (lambda d: d["energy"].update(module="os.system"), r"needs `os\.system`"),
        (lambda d: d["energy"]["fields"].pop("width"), r"the class `Ring` disagree"),
        (lambda d: d.pop("arrays"), "not a file that `ebm.save` wrote"),
        (lambda d: d["arrays"][0].__setitem__(2, [10**9]), "not a file that `ebm.save` wrote"),
        (lambda d: d["arrays"][0].__setitem__(1, "object"), "not a file that `ebm.save` wrote"),
        (lambda d: d["energy"].update(fields=[1]), "not a file that `ebm.save` wrote"),
        (nested, "not a file that `ebm.save` wrote"),
    ],
)
def test_a_file_cannot_name_what_the_library_has_not(change, message, tmp_path):
    path = tmp_path / "energy.ebm"
    ebm.save(path, ebm.energies.Ring())
    rewrite(path, change)
    with pytest.raises(ValueError, match=message):
        ebm.load(path)


def test_a_file_of_something_else(tmp_path):
    (tmp_path / "x").write_text("pickled?")
    with pytest.raises(ValueError, match=r"not a file that `ebm\.save` wrote"):
        ebm.load(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        ebm.load(tmp_path / "y")


def corruptions(data, size=500):
    """Flipped bits, blocks of zeros, and ends cut off."""
    rng = np.random.default_rng(0)
    for kind in rng.integers(3, size=size):
        bad, start = bytearray(data), int(rng.integers(len(data)))
        if kind == 0:
            bad[start] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            bad[start : start + 64] = bytes(len(bad[start : start + 64]))
        else:
            del bad[start:]
        yield bytes(bad)


def test_a_damaged_file_is_one_clear_error(tmp_path):
    """Of 200 corruptions of the files before these had checksums, six loaded wrong numbers."""
    path, energy = tmp_path / "energy.ebm", ENERGIES["Tilted"]()
    ebm.save(path, energy)
    data, num_changed = path.read_bytes(), 0
    for bad in corruptions(data):
        path.write_bytes(bad)
        if bad == data:
            continue
        num_changed += 1
        for like in (None, energy):
            with pytest.raises(
                ValueError, match=r"not a file that `ebm\.save` wrote, or is dam"
            ):
                ebm.load(path, like=like)
    assert num_changed > 450


def test_random_keys_survive(tmp_path):
    keys = jax.random.split(jax.random.key(3), 4)
    ebm.save(tmp_path / "keys", {"keys": keys})
    again = ebm.load(tmp_path / "keys")["keys"]
    assert (jax.random.bits(again[2]) == jax.random.bits(keys[2])).all()


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "energy.ebm"
    ebm.save(path, ebm.energies.Ring())
    monkeypatch.setattr(zipfile.ZipFile, "writestr", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ebm.save(path, ebm.energies.Banana())
    assert isinstance(ebm.load(path), ebm.energies.Ring)
    assert [p.name for p in tmp_path.iterdir()] == ["energy.ebm"]
