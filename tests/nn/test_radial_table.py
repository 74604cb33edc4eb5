"""Radial tables: measured, refused where they are not exact enough, made again when the module changes."""

import copy
import io

import pytest
import torch

import equikern
from equikern.errors import EquikernError
from equikern.nn import RadialTable
from equikern.nn._radial_fit import fit, holds, table_of
from equikern.nn._radial_table import TOLERANCE, TRAINED
from equikern.ops.spline import OFFSETS
from equikern.testing import RadialNetwork, as_on_a_device


class Function(torch.nn.Module):
    """A function of the length without parameters."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, r):
        return self.function(r).unsqueeze(1)


def read(table, r):
    """The weights of lengths, by the table."""
    rows, b, knot = table(r, r.dtype, asked=True)
    return torch.einsum("ec,ecw->ew", b, rows[knot[:, None] + torch.tensor(OFFSETS)])


def lengths(n=3000):
    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4.5 + 0.5


def test_values_and_slopes_are_as_exact_as_promised():
    radial = RadialNetwork(6).double()
    r = lengths().requires_grad_()
    table = RadialTable(radial, 5.0)
    exact = radial(r)
    value = (read(table, r) - exact).abs().max() / exact.abs().max()
    assert 0 < value <= 1e-7
    for column in range(6):
        (slope,) = torch.autograd.grad(exact[:, column].sum(), r, retain_graph=True)
        (got,) = torch.autograd.grad(read(table, r)[:, column].sum(), r)
        assert (got - slope).abs().max() <= 3.6e-6 * exact.abs().max()


def test_a_kink_becomes_a_break():
    function = Function(lambda r: torch.where(r < 3.2, 1.0, 1 - (r - 3.2).clamp(min=0) ** 2) * torch.cos(r))
    table = RadialTable(function, 5.0)
    assert table.why_not() is None
    assert table._fit.breaks[1:-1] == pytest.approx([3.2], abs=1e-5)
    assert len(table) < 2000


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda r: (r - 2).abs().sqrt(), "is off by"),
        (lambda r: torch.sin(4000 * r), "is off by"),
        (lambda r: torch.where(r > 4, float("nan"), r), "not finite"),
    ],
)
def test_a_function_that_no_table_follows_is_refused(function, reason):
    table = RadialTable(Function(function), 5.0)
    assert reason in table.why_not()
    assert table(lengths(), torch.float64) is None


def test_a_zero_function_has_a_table_of_zeros():
    table = RadialTable(Function(torch.zeros_like), 5.0)
    assert not read(table, lengths()).any()


def test_the_module_itself_runs_for_few_and_for_short_edges():
    table = RadialTable(RadialNetwork(3), 5.0)
    assert table(lengths().float(), torch.float32) is not None
    assert table(lengths(100).float(), torch.float32) is None
    table.radial.eval()
    assert table(lengths(100).float(), torch.float32) is not None  # fewer than its intervals
    assert table(lengths(20).float(), torch.float32) is None
    short = lengths().float()
    short[5] = 0.49
    assert table(short, torch.float32) is None
    short[5] = float("nan")
    assert table(short, torch.float32) is None


def test_the_reference_runs_the_module_unless_the_table_is_asked_for():
    table = RadialTable(RadialNetwork(3).eval(), 5.0)
    assert table(lengths().float(), torch.float32) is not None
    with equikern.backend("reference"):
        assert table(lengths().float(), torch.float32) is None
        assert table(lengths().float(), torch.float32, asked=True) is not None


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.float16, torch.float16)])
def test_half_types_have_no_table(dtypes):
    table = RadialTable(RadialNetwork(3), 5.0)
    assert table(lengths().to(dtypes[0]), dtypes[1]) is None


def test_parameters_that_train_ask_for_more_edges():
    table = RadialTable(RadialNetwork(3), 5.0)
    r = lengths(TRAINED * len(table) - 1).float()
    assert table(r, torch.float32) is None
    assert table(lengths(TRAINED * len(table)).float(), torch.float32) is not None
    with torch.no_grad():
        assert table(r, torch.float32) is not None
    assert table.radial.eval() and table(r, torch.float32) is not None
    assert table.radial.train().requires_grad_(False) and table(r, torch.float32) is not None


def test_training_by_few_edges_makes_no_table():
    table, r = RadialTable(RadialNetwork(3), 5.0), lengths(TRAINED * 64).float()
    assert len(table)
    change_by_step(table.radial)
    calls = table.radial.calls
    assert table(r, torch.float32) is None and table.radial.calls == calls
    assert RadialTable(table.radial, 5.0)(lengths(100).float(), torch.float32) is None
    assert table.radial.calls == calls


def test_parameters_that_change_by_their_gradients_in_evaluation_train():
    table, r = RadialTable(RadialNetwork(3).eval(), 5.0), lengths(100).float().requires_grad_()
    for trains in (False, True):
        weights = read(table, r)
        torch.autograd.grad(weights.sum(), [r, *table.radial.parameters()] if trains else r)
        assert table(r, torch.float32) is not None  # the same parameters, the same table
        change_by_average(table.radial)
        assert (table(r, torch.float32) is None) == trains
    with torch.no_grad():
        assert table(r, torch.float32) is not None


def test_gradients_in_training_do_not_ask_for_more_edges_in_evaluation():
    table = RadialTable(RadialNetwork(3), 5.0)
    read(table, lengths().float()).sum().backward()
    change_by_average(table.radial)
    table.radial.eval()
    assert table(lengths(100).float(), torch.float32) is not None


def test_a_refusal_holds_after_small_changes(monkeypatch):
    from equikern.nn import _radial_table

    table, calls = RadialTable(RadialNetwork(3, hidden=64), 5.0), []
    table.radial.net[1] = torch.nn.ReLU()
    assert "is off by" in table.why_not()
    monkeypatch.setattr(_radial_table, "fit", lambda *a, **k: calls.append(1) or fit(*a, **k))
    for change, fits in ((1e-3, 0), (0.3, 1)):
        with torch.no_grad():
            for p in table.radial.parameters():
                p += change * p.abs().max()
        assert table.why_not() and len(calls) == fits


def change_by_load(radial):
    radial.load_state_dict({name: 1.5 * t for name, t in radial.state_dict().items()})


def change_by_step(radial):
    radial(lengths().float()).square().sum().backward()
    torch.optim.SGD(radial.parameters(), lr=1e-2).step()


def change_by_average(radial):
    for p in radial.parameters():
        p.data.mul_(0.9).add_(0.01)  # leaves `_version` as it is


@pytest.mark.parametrize("change", [change_by_load, change_by_step, change_by_average])
def test_it_follows_its_parameters(change):
    radial = RadialNetwork(3)
    table = RadialTable(radial, 5.0)
    r = lengths().float()
    before = read(table, r).detach()
    change(radial)
    after = read(table, r).detach()
    assert (after - before).abs().max() > 1e-4
    exact = radial(r).detach()
    assert (after - exact).abs().max() <= 1e-6 * exact.abs().max()


def test_an_unchanged_module_is_not_evaluated_again():
    radial = RadialNetwork(3)
    table = RadialTable(radial, 5.0)
    read(table, lengths().float())
    calls = radial.calls
    read(table, lengths().float())
    assert radial.calls == calls


def test_parameters_get_the_module_s_gradients_to_second_order():
    radial = RadialNetwork(3).double()
    table, r = RadialTable(radial, 5.0), lengths().requires_grad_()
    parameters = list(radial.parameters())

    def gradients(weights):
        (force,) = torch.autograd.grad(weights.sin().sum(), r, create_graph=True)
        loss = force.square().sum() + weights.square().sum()
        first = torch.autograd.grad(loss, parameters, create_graph=True)
        return [*first, *torch.autograd.grad(sum(g.square().sum() for g in first), parameters)]

    for got, exact in zip(gradients(read(table, r)), gradients(radial(r)), strict=True):
        assert (got - exact).abs().max() <= 2e-5 * exact.abs().max()


def test_forces_do_not_run_the_module_backwards():
    radial = RadialNetwork(3)
    table, r = RadialTable(radial, 5.0), lengths().float().requires_grad_()
    weights = read(table, r)
    calls = radial.calls
    torch.autograd.grad(weights.sum(), r)
    assert radial.calls == calls
    assert all(p.requires_grad for p in radial.parameters())


def test_a_fit_like_another_starts_there():
    function = RadialNetwork(3).double()
    with torch.no_grad():
        first = fit(function, 0.5, 5.0, TOLERANCE, None)
        calls = function.calls
        assert fit(function, 0.5, 5.0, TOLERANCE, first) == first
    assert function.calls - calls < calls


def test_copies_and_pickles_have_tables_of_their_own():
    radial = RadialNetwork(3)
    table = RadialTable(radial, 5.0)
    r = lengths().float()
    read(table, r)
    twin = copy.deepcopy(table)
    with torch.no_grad():
        for p in twin.radial.parameters():
            p.zero_()
    assert not read(twin, r).any() and read(table, r).any()
    buffer = io.BytesIO()
    torch.save(table, buffer)
    buffer.seek(0)
    assert torch.equal(read(torch.load(buffer, weights_only=False), r), read(table, r))


@pytest.mark.parametrize(
    ("r_max", "options"), [(0.0, {}), (float("inf"), {}), (5.0, {"r_min": 6.0}), (5.0, {"species": -1})]
)
def test_bad_arguments_are_refused(r_max, options):
    with pytest.raises(EquikernError):
        RadialTable(RadialNetwork(3), r_max, **options)


def test_after_a_small_change_the_knots_stay_and_the_values_are_new(monkeypatch):
    from equikern.nn import _radial_table

    radial, calls = RadialNetwork(6).double(), []
    table = RadialTable(radial, 5.0)
    assert table.why_not() is None
    knots = table._fit
    monkeypatch.setattr(_radial_table, "fit", lambda *a, **k: calls.append(1) or fit(*a, **k))
    for change, measured in ((1e-3, 0), (0.3, 1)):
        with torch.no_grad():
            for p in radial.parameters():
                p += change * p.abs().max() * torch.randn(p.shape, dtype=p.dtype).clamp(-1, 1)
        exact = radial(lengths())
        assert (read(table, lengths()) - exact).abs().max() <= 1e-7 * exact.abs().max()
        assert len(calls) == measured and (table._fit is knots) == (not measured)


def test_a_sample_of_the_errors_finds_a_table_that_does_not_hold_any_more():
    def wave(frequency):
        return lambda r: torch.sin(frequency * r).unsqueeze(1)

    known = fit(wave(2), 0.5, 5.0, TOLERANCE, like=None)
    assert holds(wave(2), known, TOLERANCE, table_of(known, wave(2)))
    assert not holds(wave(9), known, TOLERANCE, table_of(known, wave(9)))


def test_a_bias_that_leaves_zero_is_a_small_change(monkeypatch):
    from equikern.nn import _radial_table

    bias, radial, calls = torch.zeros(1, dtype=torch.float64), RadialNetwork(6).double(), []
    radial.register_parameter("bias", torch.nn.Parameter(bias))
    table = RadialTable(radial, 5.0)
    assert table.why_not() is None
    monkeypatch.setattr(_radial_table, "fit", lambda *a, **k: calls.append(1) or fit(*a, **k))
    for change, measured in ((1e-6, 0), (1e-6, 0), (10.0, 1)):
        radial.bias.data += change
        assert table.why_not() is None and len(calls) == measured


# --- on a device, where values are not looked at: here on the CPU, which is treated as one


@pytest.fixture
def unseen():
    with as_on_a_device():
        yield


@pytest.mark.parametrize("length", [0.49, float("nan")])
def test_on_a_device_a_short_edge_gives_nan_and_the_others_their_weights(unseen, length):
    table = RadialTable(RadialNetwork(3).eval(), 5.0)
    r = lengths().float()
    r[5] = length
    got, exact = read(table, r).detach(), table.radial(r).detach()
    others = torch.arange(len(r)) != 5
    assert got[5].isnan().all()
    assert (got - exact)[others].abs().max() <= 1e-6 * exact[others].abs().max()


@pytest.mark.parametrize("change", [change_by_load, change_by_step])
def test_on_a_device_it_follows_what_the_host_sees(unseen, change):
    table = RadialTable(RadialNetwork(3), 5.0)
    assert table.why_not() is None
    change(table.radial.train())
    table.radial.eval()
    exact = table.radial(lengths().float()).detach()
    assert (read(table, lengths().float()) - exact).abs().max() <= 1e-6 * exact.abs().max()


def test_on_a_device_a_change_that_the_host_does_not_see_gives_nan_until_it_is_looked_at(unseen):
    table = RadialTable(RadialNetwork(3).eval(), 5.0)
    r = lengths().float()
    assert not read(table, r).isnan().any()
    change_by_average(table.radial)
    assert read(table, r).isnan().all()
    assert table.why_not() is None
    exact = table.radial(r).detach()
    assert (read(table, r) - exact).abs().max() <= 1e-6 * exact.abs().max()


@pytest.mark.parametrize("look", [lambda m: m.train().requires_grad_(False), lambda m: m.requires_grad_(False)])
def test_on_a_device_averaged_parameters_are_seen_where_evaluation_begins(unseen, look):
    table = RadialTable(RadialNetwork(3).eval(), 5.0)
    read(table, lengths().float())
    change_by_average(table.radial)
    look(table.radial)
    exact = table.radial(lengths().float()).detach()
    assert (read(table, lengths().float()) - exact).abs().max() <= 1e-6 * exact.abs().max()


def test_on_a_device_the_module_runs_unless_the_table_is_asked_for(unseen):
    table, r = RadialTable(RadialNetwork(3), 5.0), lengths(9000).float()
    for evaluates in (False, True):
        with torch.set_grad_enabled(not evaluates):
            assert table(r, torch.float32) is None
            assert table(r, torch.float32, asked=True) is not None
