"""Each example runs as a user runs it, and says what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *, cwd):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        capture_output=True,
        text=True,
        cwd=cwd,
        # Without what speeds up the compiler for the tests.
        env={**os.environ, "MPLBACKEND": "Agg", "XLA_FLAGS": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_digits_prior(tmp_path):
    printed = run("01_digits_prior.py", cwd=tmp_path)
    coverage = re.search(r"learned energy +([\d.]+)%", printed).group(1)
    assert 87 <= float(coverage) <= 95
    _, gaps, likelihoods = re.split(r"learned energy minus|to the best", printed)
    gap = r" +(\S+) ± (\S+)"
    rows = re.findall(rf"^(.+?){gap}{gap}$", gaps, re.MULTILINE)
    assert len(rows) == 5
    for name, *numbers in rows:
        rmse, rmse_error, energy_score, energy_score_error = map(float, numbers)
        # The means of mixtures of Gaussians are as good as the energy's, but not their draws.
        margins = (1, 0) if "mixture" in name else (-3, -3)
        assert rmse < margins[0] * rmse_error, name
        assert energy_score < margins[1] * energy_score_error, name
    assert likelihoods.split()[:2] == ["learned", "energy"]
    r_hat, ess = re.search(r"r_hat <= ([\d.]+), ess_bulk >= (\d+)", printed).groups()
    assert float(r_hat) < 1.03
    assert int(ess) > 200
    assert {"ess_bulk", "ess_tail", "r_hat"} <= set(printed.split())
    assert (tmp_path / "digits_prior.png").stat().st_size > 10_000


@pytest.mark.slow
def test_glasses_and_hats(tmp_path):
    printed = run("02_glasses_and_hats.py", cwd=tmp_path)
    rows = re.findall(r"^(.+?) +([\d.]+) +([\d.]+)$", printed, re.MULTILINE)
    assert len(rows) == 5
    for name, variation, divergence in rows:
        assert float(variation) < 0.06, name
        assert float(divergence) < 0.015, name
    assert "glasses - 0.5 * hats: NOT integrable" in printed
    assert "against a background: integrable in every direction seen" in printed
    assert (tmp_path / "glasses_and_hats.png").stat().st_size > 10_000


@pytest.mark.slow
def test_pulses(tmp_path):
    printed = run("03_pulses.py", cwd=tmp_path)
    rows = re.findall(
        r"^(.+?) +([\d.]+) +([\d.]+)% +([\d.]+) ± ([\d.]+)$", printed, re.MULTILINE
    )
    (_, rmse, coverage, noise, noise_sd), (_, mixture_rmse, *_), (_, gaussian_rmse, *_) = rows
    assert float(rmse) < 0.8 * float(gaussian_rmse)
    assert float(rmse) < 1.05 * float(mixture_rmse)
    assert 82 <= float(coverage) <= 96
    assert abs(float(noise) - 0.05) < 3 * float(noise_sd)
    for r_hat, ess in re.findall(
        r"r_hat <= ([\d.]+), ess_bulk >= (\d+), divergences 0", printed
    ):
        assert float(r_hat) < 1.05
        assert int(ess) > 100
    assert "integrable in every direction seen" in printed
    assert (tmp_path / "pulses.png").stat().st_size > 10_000


@pytest.mark.slow
def test_islands(tmp_path):
    printed = run("04_islands.py", cwd=tmp_path)
    errors = dict(re.findall(r"^(MALA|tempered|SMC) .* ([\d.]+)$", printed, re.MULTILINE))
    assert float(errors["MALA"]) > 0.4
    assert float(errors["tempered"]) < 0.03
    assert float(errors["SMC"]) < 0.05
    # All that the usual numbers see is that the chains agree.
    assert float(re.search(r"MALA: r_hat <= ([\d.]+)", printed).group(1)) < 1.01
    assert float(re.search(r"tempered: r_hat <= ([\d.]+)", printed).group(1)) < 1.02
    assert (tmp_path / "islands.png").stat().st_size > 10_000


@pytest.mark.slow
def test_objectives(tmp_path):
    printed = run("05_objectives.py", cwd=tmp_path)
    rows = dict(re.findall(r"^(.+?) +([\d.]+) +-?[\d.]+", printed, re.MULTILINE))
    assert len(rows) == 6
    for name, divergence in rows.items():
        assert float(divergence) < 0.4, name
    estimate = re.search(r"noise-contrastive +[\d.]+ +(\S+) +(\S+) \+- (\S+)", printed)
    log_z, learned, error = map(float, estimate.groups())
    assert abs(log_z - learned) < 5 * error + 0.01
    assert (tmp_path / "objectives.png").stat().st_size > 10_000


@pytest.mark.slow
def test_evidence(tmp_path):
    printed = run("06_evidence.py", cwd=tmp_path)
    found = re.findall(r"^(.+?) +log Z = (\S+) \+- ([^,\s]+)", printed, re.MULTILINE)
    # Noise contrast says that its noise is too far away.
    assert len(found) == 3
    assert "noise contrast             log Z = " in printed
    assert "no interval: the weights have such a heavy tail" in printed
    for _, value, error in found:
        for _, other, other_error in found:
            gap = abs(float(value) - float(other))
            assert gap < 3 * (float(error) ** 2 + float(other_error) ** 2) ** 0.5, printed
    rows = re.findall(
        r"^(learned energy|full Gaussian|ind\S+ \S+) +(\S+)", printed, re.MULTILINE
    )
    assert [name for name, _ in rows] == [
        "learned energy",
        "full Gaussian",
        "independent pixels",
    ]
    assert float(rows[0][1]) > float(rows[1][1]) + 0.5
    assert (tmp_path / "evidence.png").stat().st_size > 10_000


@pytest.mark.slow
def test_blind_spots(tmp_path):
    printed = run("07_blind_spots.py", cwd=tmp_path)
    mixing, modes, probe = re.split(r"^Modes of|^Chains by", printed, flags=re.MULTILINE)
    # The numbers that compare chains, and slopes, see nothing.
    assert "\nok\n" in mixing
    assert "no misfit seen" in mixing
    assert "No chain visits mode 1, which holds 0." in modes
    assert "starts still disagree about right" in probe
    assert (tmp_path / "blind_spots.png").stat().st_size > 10_000


@pytest.mark.slow
def test_model_choice(tmp_path):
    printed = run("08_model_choice.py", cwd=tmp_path)
    gaps = [float(x) for x in re.findall(r"([+-][\d.]+) from the truth", printed)]
    assert len(gaps) == 5
    assert max(map(abs, gaps)) < 0.02
    truth = float(re.search(r"the truth about five columns: (\S+)", printed).group(1))
    found = re.findall(r"^(\w.+?) +log Z = (\S+) \+- ([^,\s]+)", printed, re.MULTILINE)
    assert len(found) == 7
    for name, value, error in found:
        assert abs(float(value) - truth) < 3.5 * float(error) + 0.005, name
    assert (tmp_path / "model_choice.png").stat().st_size > 10_000


@pytest.mark.slow
def test_aliases(tmp_path):
    printed = run("09_aliases.py", cwd=tmp_path)
    share = float(re.search(r"f > 1/2: ([\d.]+)", printed).group(1))
    by = dict(re.findall(r"by (\w+), chain by chain: \[(.+?)\]", printed))
    nuts, tempered = ([float(x) for x in by[n].split()] for n in ("NUTS", "tempering"))
    assert max(nuts) - min(nuts) > 0.9
    assert all(abs(x - share) < 0.06 for x in tempered)
    mixing, tempering = re.split(r"^Tempering of", printed, flags=re.MULTILINE)
    assert "the chains disagree" in mixing
    exact, value, error = re.search(
        r"evidence (\S+), by stepping stones log Z = (\S+) \+- ([^,\s]+)", tempering
    ).groups()
    assert abs(float(exact) - float(value)) < 4 * float(error) < 0.5
    assert (tmp_path / "aliases.png").stat().st_size > 10_000


@pytest.mark.slow
def test_florentine(tmp_path):
    printed = run("10_florentine.py", cwd=tmp_path)
    assert "20 marriages, 3 triangles" in printed
    assert "chains of graphs agree: True" in printed
    assert re.search(r"proposals\nok$", printed, re.M)
    row = r"^(exact|pseudo-likelihood|calibrated|exchange) +(\S+) \+- (\S+) +(\S+) \+- (\S+)$"
    rows = {name: [*map(float, cells)] for name, *cells in re.findall(row, printed, re.M)}
    exact, naive, calibrated = rows["exact"], rows["pseudo-likelihood"], rows["calibrated"]
    for i in (0, 2):
        assert abs(calibrated[i] - exact[i]) < exact[i + 1]
        # Without the calibration, it is too narrow; with it, it is no narrower than the truth.
        assert naive[i + 1] < exact[i + 1] < calibrated[i + 1] < 1.6 * exact[i + 1]
        # About 150 effective draws, which tell it from the pseudo-likelihood.
        assert abs(rows["exchange"][i] - exact[i]) < 0.33 * exact[i + 1]
        assert 0.75 < rows["exchange"][i + 1] / exact[i + 1] < 1.25
    assert (tmp_path / "florentine.png").stat().st_size > 10_000


@pytest.mark.slow
def test_segmentation(tmp_path):
    printed = run("11_segmentation.py", cwd=tmp_path)
    assert "log Z at the centre: unknown\nok\n" in printed
    assert re.search(r"NOT ok|^ok", printed.split("Mixing of")[1], re.M).group() == "ok"
    row = r"^(mixture|Potts model) +(\S+) +(\S+)$"
    rows = {name: [*map(float, cells)] for name, *cells in re.findall(row, printed, re.M)}
    wrong, score = np.transpose([rows["Potts model"], rows["mixture"]])
    assert wrong[0] < wrong[1] - 0.2
    assert score[0] > score[1] + 0.25
    assert (tmp_path / "segmentation.png").stat().st_size > 10_000


@pytest.mark.slow
def test_sensors(tmp_path):
    printed = run("12_sensors.py", cwd=tmp_path)
    by = dict(re.findall(r"^(\w+), north in each chain: \[(.+?)\]", printed, re.M))
    shares = {name: np.array([float(x) for x in row.split()]) for name, row in by.items()}
    assert np.ptp(shares["NUTS"]) > 0.5
    assert np.ptp(shares["jumps"]) < 0.15
    assert abs(shares["jumps"].mean() - shares["tempering"].mean()) < 0.1
    assert "Jumps connect 1 of 1 pairs of modes\nok" in printed
    sizes = dict(re.findall(r"effective draws of the world, (\w+): (\d+)", printed))
    assert int(sizes["jumps"]) > 2 * int(sizes["tempering"])
    assert (tmp_path / "sensors.png").stat().st_size > 10_000


@pytest.mark.slow
def test_anomalies(tmp_path):
    printed = run("13_anomalies.py", cwd=tmp_path)
    low, high = re.search(r"between (\S+) and (\S+)$", printed, re.MULTILINE).groups()
    rows = dict(re.findall(r"^(.+?) +([\d.]+ +[\d.]+ +[\d.]+)$", printed, re.MULTILINE))
    rows = {name: [*map(float, cells.split())] for name, cells in rows.items()}
    assert len(rows) == 5
    for name, (rate, _, auroc) in rows.items():
        if name == "on training":
            assert rate > 2 * float(high)
        else:
            # The new digits add a little to the error of the reference.
            assert float(low) - 0.02 < rate < float(high) + 0.02, name
        assert auroc > 0.9, name
    assert rows["energy"][1] > rows["Gaussian"][1] + 0.2
    assert (tmp_path / "anomalies.png").stat().st_size > 10_000


@pytest.mark.slow
def test_restoration(tmp_path):
    printed = run("14_restoration.py", cwd=tmp_path)
    assert "chains agree: True" in printed
    row = r"^(Gaussian|PPCA|mixture|energy)" + 4 * r" +([\d.]+)"
    rows = {name: [*map(float, cells)] for name, *cells in re.findall(row, printed, re.M)}
    energy = rows.pop("energy")
    assert len(rows) == 3
    for name, other in rows.items():
        # The mixture fills in almost as well.
        margin = 0.002 if name == "mixture" else -0.015
        assert energy[0] < other[0], name
        assert energy[1] < other[1] + margin, name
    assert 0.87 < energy[2] < 0.93
    assert 0.87 < energy[3] < 0.93
    assert (tmp_path / "restoration.png").stat().st_size > 10_000


@pytest.mark.slow
def test_deblurring(tmp_path):
    printed = run("15_deblurring.py", cwd=tmp_path)
    row = r"^  (Gaussian|energy) +([\d.]+) +([\d.]+)% +([\d.]+) +([\d.]+)$"
    rows = re.findall(row, printed, re.MULTILINE)
    assert [name for name, *_ in rows] == 3 * ["Gaussian", "energy"]
    numbers = np.array([[float(cell) for cell in cells] for _, *cells in rows])
    rmse, covers, scale, r_hat = numbers[1::2].T
    assert (rmse < 0.85 * numbers[::2, 0]).all()
    assert ((covers > 87) & (covers < 95)).all()
    assert ((scale > 0.04) & (scale < 0.065)).all()
    assert (r_hat < 1.05).all()
    assert (tmp_path / "deblurring.png").stat().st_size > 10_000


@pytest.mark.slow
def test_two_branches(tmp_path):
    printed = run("16_two_branches.py", cwd=tmp_path)
    row = r"^(.+?) +-?[\d.]+ +([\d.]+) \+- ([\d.]+) +([\d.]+) +([\d.]+)-([\d.]+) +([\d.]+)$"
    rows = {name: [*map(float, cells)] for name, *cells in re.findall(row, printed, re.M)}
    assert set(rows) == {"truth", "energy", "mixture network", "Gaussian network"}
    lost, error, covers, lowest, highest, length = rows["energy"]
    assert lost < 0.02
    assert error < 0.002
    assert 0.88 < covers < 0.92
    assert 0.87 < lowest < highest < 0.94
    assert length < 1.1 * rows["truth"][-1]
    gaussian = rows["Gaussian network"]
    # It covers over all distances, and not at each.
    assert gaussian[0] > 0.2
    assert gaussian[3] < 0.87
    assert (tmp_path / "two_branches.png").stat().st_size > 10_000


@pytest.mark.slow
def test_compose_digits(tmp_path):
    printed = run("17_compose_digits.py", cwd=tmp_path)
    first, later = re.findall(r"^recognised ([\d.]+)", printed, re.M)
    assert float(first) >= 0.9
    assert float(later) >= 0.85
    row = r"^(3.*?|any NOT 3)" + 4 * r" +([\d.]+)" + "$"
    rows = {name: [*map(float, cells)] for name, *cells in re.findall(row, printed, re.M)}
    usual, bold, either = rows["3"], rows["3 AND bold"], rows["3 OR 8"]
    high = float(re.search(r"90 % in [\d.]+-([\d.]+)", printed).group(1))
    assert bold[0] > 0.9
    assert bold[3] > high > usual[3]
    # Of 50 images, the standard error of this difference is .14.
    assert abs(either[0] - either[1]) < 0.4
    assert either[0] + either[1] > 0.85
    assert rows["any NOT 3"][0] < 0.05
    both = rows["3 OR 8, NOT 3, AND bold"]
    assert both[0] < 0.1
    assert both[1] > 0.85
    assert both[3] > high
    assert (tmp_path / "compose_digits.png").stat().st_size > 10_000


@pytest.mark.slow
def test_translation(tmp_path):
    printed = run("18_translation.py", cwd=tmp_path)
    assert "chains agree: True" in printed
    found = re.findall(
        r"^(chain|a draw|mean|any|nearest)(.*?) +([\d.]+) +([\d.]+)$", printed, re.M
    )
    rows = {kind + rest: (float(share), float(close)) for kind, rest, share, close in found}
    assert rows["chain, 0 steps"][0] < 0.1
    assert rows["chain, 200 steps"][0] > 0.8
    assert rows["any eight"][1] < rows["chain, 200 steps"][1] < rows["nearest eight"][1]
    assert rows["mean, 0.6"][0] > 0.9
    # The noise scale says how much of the source is kept.
    for kind in ("mean", "a draw"):
        closeness = [rows[f"{kind}, {scale}"][1] for scale in (0.4, 0.5, 0.6)]
        assert closeness == sorted(closeness, reverse=True)
    gap, error = re.search(r"minus the nearest eight: ([\d.]+) \+- ([\d.]+)", printed).groups()
    assert float(gap) > 2 * float(error)
    assert (tmp_path / "translation.png").stat().st_size > 10_000
