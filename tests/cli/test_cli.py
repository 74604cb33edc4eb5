"""`python -m equikern`: what its commands print, write and return."""

import builtins
import importlib.util
import json

import pytest

from equikern import cli


def without(monkeypatch, *names):
    """As if these packages were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr("equikern.cli.demo.find_spec", lambda name: None if name in names else find(name))
    load = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] in names:
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.fixture
def demo_packages():
    for name in ("e3nn", "ase", "tqdm", "matplotlib"):
        pytest.importorskip(name, reason=f"{name} is not installed")


def demo(tmp_path, *options):
    """Exit code and the JSON of a small demo."""
    files = ["--json", str(tmp_path / "demo.json"), "--plot", str(tmp_path / "demo.png")]
    code = cli.main(["demo", "--structures", "ethanol", "--repeats", "1", *files, *options])
    return code, json.loads((tmp_path / "demo.json").read_text())


def test_info_names_versions_backends_target_and_threads(capsys):
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    for word in ("equikern", "torch", "cpu target", "threads", "cuda", "reference   runs it"):
        assert word in printed


def test_no_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main([])
    assert exit.value.code == 2


def test_the_demo_on_sevennet_agrees_and_writes_its_results(tmp_path, demo_packages, capsys):
    pytest.importorskip("sevenn", reason="sevenn is not installed")
    code, results = demo(tmp_path, "--steps", "3")
    (structure,) = results["structures"]
    assert code == 0
    assert (structure["atoms"], structure["edges"]) == (9, 72)
    assert structure["step_ratio"] == pytest.approx(
        min(structure["step_times"]["e3nn"]) / min(structure["step_times"]["equikern"])
    )
    assert set(results["dynamics"]) == {"e3nn", "equikern"}
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert f"energy plot: {tmp_path / 'demo.png'}" in capsys.readouterr().out


def test_without_sevenn_the_demo_says_so_and_runs_an_e3nn_network(tmp_path, demo_packages, monkeypatch, capsys):
    without(monkeypatch, "sevenn")
    code, results = demo(tmp_path, "--steps", "0")
    printed = capsys.readouterr().out
    assert code == 0 and results["model"] == "NequIP-like e3nn network, random weights"
    assert "sevenn is not installed (pip install 'equikern[demo]')" in printed and "3 TensorProduct" in printed


def test_without_e3nn_the_demo_says_what_to_install_and_exits_2(monkeypatch, capsys):
    without(monkeypatch, "e3nn")
    assert cli.main(["demo"]) == 2
    assert "needs e3nn: pip install 'equikern[demo]'" in capsys.readouterr().err


def test_the_demo_fails_when_the_numbers_differ(tmp_path, demo_packages, monkeypatch, capsys):
    monkeypatch.setattr("equikern.cli.demo.FORCE_LIMIT", -1.0)
    without(monkeypatch, "sevenn")
    assert demo(tmp_path, "--steps", "0")[0] == 1
    assert "THE NUMBERS DIFFER" in capsys.readouterr().out


def test_threads_are_set_for_torch(tmp_path, demo_packages, monkeypatch):
    import torch

    before = torch.get_num_threads()
    without(monkeypatch, "sevenn")
    results = demo(tmp_path, "--steps", "0", "--threads", "1")[1]
    torch.set_num_threads(before)
    assert results["threads"] == 1


def test_a_drift_is_fitted_by_a_straight_line():
    import numpy as np

    from equikern.cli.dynamics import Drift

    times = np.linspace(0, 2, 9)
    drift = Drift(times, 0.5 * times)
    assert (drift.slope, drift.largest) == (pytest.approx(0.5), pytest.approx(1.0))
