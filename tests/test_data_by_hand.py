"""Compares sources, split, standardisation and batches with plain loops and values computed by hand."""

import math
import os
from typing import Any

import numpy as np
import pytest
import torch
from conftest import config_of, load, split

from descent.batches.in_memory import InMemoryBatches
from descent.errors import UserError
from regression.data.memory import check_size, memory_bytes, needed_bytes
from regression.data.sources import ListedData
from regression.data.standardization import Standardization

SYNTHETIC = ("data.num_samples=7", "data.num_features=3", "data.condition_number=4", "data.noise_std=0.5")


def test_synthetic_rows_equal_those_of_a_plain_loop() -> None:
    found = load(config_of(*SYNTHETIC, "data.outlier_fraction=0.5", "data.seed=3").data)
    rng = np.random.default_rng(3)
    weight, bias = [rng.standard_normal() for _ in range(3)], rng.standard_normal()
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    normal = rng.standard_normal((7, 3))
    scale = [math.sqrt(variance * 3 / (1 + 2 + 4)) for variance in (1, 2, 4)]
    inputs = [[sum(rotation[i, k] * scale[k] * row[k] for k in range(3)) for i in range(3)] for row in normal]
    clean = [sum(w * x for w, x in zip(weight, row, strict=True)) + bias for row in inputs]
    targets = [y + 0.5 * rng.standard_normal() for y in clean]
    mean = sum(clean) / 7
    deviation = math.sqrt(sum((y - mean) ** 2 for y in clean) / 7)
    outliers = rng.permutation(7)[:4]  # 3.5 rounds to even
    for row, sign in zip(outliers, rng.choice([-1.0, 1.0], size=4), strict=True):
        targets[row] += 10 * deviation * sign
    np.testing.assert_allclose(found.inputs, inputs, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.targets, targets, rtol=1e-12, atol=1e-12)
    assert found.true_weight == pytest.approx(weight, rel=1e-15) and found.true_bias == bias
    assert (found.feature_names, found.target_name) == (("x_1", "x_2", "x_3"), "y")


def test_every_source_names_its_columns(tmp_path: Any) -> None:
    (tmp_path / "rows.csv").write_text("a,b,c\n1,2,3\n")
    diabetes = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
    for overrides, names, target in (
        (["data=diabetes"], diabetes, "progression"),
        (["data=two_features"], ("x_1", "x_2"), "y"),
        (["data=table", f"data.path={tmp_path}/rows.csv", "data.target=b"], ("a", "c"), "b"),
    ):
        rows = load(config_of(*overrides).data)
        assert (rows.feature_names, rows.target_name) == (names, target)
        assert (rows.true_weight, rows.true_bias) == (None, None)


@pytest.mark.parametrize("limit", [3, 4, 5])
def test_max_rows_keeps_the_first_rows(limit: int) -> None:
    rows = load(config_of("data=line", f"data.max_rows={limit}").data)
    assert (rows.inputs.tolist(), rows.targets.tolist()) == ([[1], [2], [3], [4]][:limit], [2, 4, 6, 8][:limit])


@pytest.mark.parametrize("number", [1e15, -1e15, 1.001e15, -1.001e15, math.nan])
@pytest.mark.parametrize("column", ["column x_1", "column x_2", "column y"])
def test_a_number_too_large_to_square_is_refused_with_its_column(
    column: str, number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = config_of("data=two_features").data
    found = load(data)
    cells = {"column x_1": found.inputs[:, 0], "column x_2": found.inputs[:, 1], "column y": found.targets}[column]
    cells[1] = number
    monkeypatch.setattr(ListedData, "load", lambda self: found)
    if abs(number) == 1e15:
        same = load(data)
        assert np.array_equal(same.inputs, found.inputs) and np.array_equal(same.targets, found.targets)
    else:
        with pytest.raises(UserError) as raised:
            load(data)
        said = "nan" if math.isnan(number) else "1001000000000000.0"
        rule = "numbers up to 1e+15 (squares of larger numbers may overflow)"
        assert str(raised.value) == f"{column} must be {rule}, got {said}"


def test_data_that_do_not_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: ListedData) -> None:
        raise MemoryError

    monkeypatch.setattr(ListedData, "load", full)
    with pytest.raises(UserError) as raised:
        load(config_of("data=line").data)
    assert str(raised.value) == "data must fit into the memory of this machine; they do not"


def test_drawing_is_allowed_up_to_the_memory_and_the_feature_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 8 * (1000 * 7001 + 1000 * 7001 + 4 * 7000 * 7000)  # table, rotated copy, four squares
    assert needed_bytes(1000, 7000) == needed
    answers = {"SC_PAGE_SIZE": 16, "SC_PHYS_PAGES": needed // 16}
    monkeypatch.setattr(os, "sysconf", answers.__getitem__)
    assert memory_bytes() == needed
    check_size(1000, 7000)
    answers["SC_PHYS_PAGES"] -= 1
    with pytest.raises(UserError) as raised:
        check_size(1000, 7000)
    assert str(raised.value) == (
        "data.num_samples must be small enough for the data to fit into memory: generating 1000 x 7000 numbers takes"
        " 1.6 GiB, and there are 1.6 GiB, got 1000"
    )
    with pytest.raises(UserError) as raised:
        check_size(1000, 7001)
    rule = "at most 7000: the rotation of more features would take minutes"
    assert str(raised.value) == f"data.num_features must be {rule}, got 7001"
    for page, pages in ((0, 4), (4, 0), (-1, -1)):
        answers.update(SC_PAGE_SIZE=page, SC_PHYS_PAGES=pages)
        assert memory_bytes() == 64 * 2**30


def test_a_split_cuts_one_permutation_and_sorts_each_part() -> None:
    data = config_of("data.val_fraction=0.25", "data.test_fraction=0.15", "data.seed=5").data
    order = np.random.default_rng((5, 1)).permutation(20).tolist()
    parts = split(data, 20)
    assert parts.val.tolist() == sorted(order[:5])
    assert parts.test.tolist() == sorted(order[5:8])
    assert parts.train.tolist() == sorted(order[8:])


def test_a_part_needs_two_rows_and_training_needs_one() -> None:
    data = config_of("data.val_fraction=0.4", "data.test_fraction=0.4").data
    parts = split(data, 5)
    assert [len(part) for part in (parts.train, parts.val, parts.test)] == [1, 2, 2]
    with pytest.raises(UserError) as raised:
        split({**data, "val_fraction": 0.58, "test_fraction": 0.38}, 5)
    rule = "small enough to leave at least one of 5 rows for training, got {'val': 3, 'test': 2}"
    assert str(raised.value) == f"data.val_fraction and data.test_fraction must be {rule}"
    with pytest.raises(UserError) as raised:
        split({**data, "val_fraction": 0.6}, 5)
    rule = "below 1, to leave training rows, got 1.0"
    assert str(raised.value) == f"data.val_fraction + data.test_fraction must be {rule}"
    with pytest.raises(UserError) as raised:
        split({**data, "test_fraction": 0.2}, 5)
    assert str(raised.value) == "data.test_fraction must be 0 or at least 2 of the 5 rows, got 0.2"


def test_standardization_equals_values_by_hand() -> None:
    units = Standardization([1.0, 2.0], [2.0, 4.0], 10.0, 5.0)
    raw, standardised = np.array([[3.0, 6.0], [1.0, -2.0]]), [[1, 1], [0, -1]]
    assert units.inputs(raw).tolist() == standardised and raw[0].tolist() == [3, 6]  # not in place
    assert units.inputs(raw, out=raw) is raw and raw.tolist() == standardised
    assert units.own_inputs(raw).tolist() == [[3, 6], [1, -2]] and raw.tolist() == standardised
    targets = np.array([20.0, 5.0])
    assert units.targets(targets).tolist() == [2, -1] and targets.tolist() == [20, 5]
    assert units.targets(targets, out=targets) is targets and targets.tolist() == [2, -1]
    assert units.own_targets(targets).tolist() == [20, 5]
    # 10 + 5 ((x_1 - 1) / 2 + 2 (x_2 - 2) / 4 + 0.5) = 2.5 x_1 + 2.5 x_2 + 5
    assert units.own_units([1.0, 2.0], 0.5) == ([2.5, 2.5], 5.0)
    assert units.own_difference([1.0, 2.0], 0.5) == ([2.5, 2.5], -5.0)
    assert units.own_units([1.0, 2.0], None) == units.own_difference([1.0, 2.0], None) == ([2.5, 2.5], None)
    assert Standardization.identity(2) == Standardization([0.0, 0.0], [1.0, 1.0], 0.0, 1.0)


@pytest.mark.parametrize(
    ("column", "center", "mean", "scale"),
    [
        ([1.0, 5.0], True, 3.0, 2.0),
        ([3.0, -4.0], False, 0.0, math.sqrt(12.5)),
        ([2.0, 2.0], False, 0.0, 2.0),
        ([2.0, 2.0], True, 2.0, 1.0),
        ([0.0, 0.0], False, 0.0, 1.0),
        ([1e-200, 5e-200], True, 3e-200, 2e-200),
        ([1e12 - 2, 1e12 + 2], True, 1e12, 2.0),  # a deviation above 1e-12 of the mean is not rounding
        ([1e12 - 0.5, 1e12 + 0.5], True, 1e12, 1.0),
        ([1e15 - 2, 1e15 + 2], True, 1e15, 1.0),
    ],
)
def test_the_fit_has_the_mean_and_scale_of_each_column(
    column: list[float], center: bool, mean: float, scale: float
) -> None:
    cells = np.array(column)
    units = Standardization.fit(np.column_stack([cells, [7.0, 9.0]]), cells, center)
    other = [8.0, 1.0] if center else [0.0, math.sqrt(65)]
    assert [units.x_mean, units.x_scale] == [pytest.approx([mean, other[0]]), pytest.approx([scale, other[1]])]
    assert (units.y_mean, units.y_scale) == (pytest.approx(mean), pytest.approx(scale))


def test_batches_keep_the_row_order_or_are_reshuffled_each_epoch() -> None:
    x = torch.arange(10.0).unsqueeze(1)
    plain = InMemoryBatches(x, x[:, 0], size=4)
    assert [y.tolist() for _, y in plain] == [y.tolist() for _, y in plain] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    shuffled = InMemoryBatches(x, x[:, 0], size=4, shuffle=True)
    for epoch in (0, 1, 0):
        shuffled.set_epoch(epoch)
        for repeat in (0, 1):  # the seed is 0
            order = np.random.default_rng((0, epoch, 2, repeat)).permutation(10).tolist()
            assert [y.tolist() for _, y in shuffled] == [order[:4], order[4:8], order[8:]]
    assert np.array_equal(np.random.default_rng((0, 1, 2, 0)).random(3), np.random.default_rng((0, 1, 2)).random(3))
    assert shuffled.sampler.sampler is shuffled and shuffled.batch_sampler is None


def test_batches_resume_at_their_saved_position() -> None:
    x = torch.arange(10.0).unsqueeze(1)
    first, second = (InMemoryBatches(x, x[:, 0], size=4) for _ in range(2))
    assert [y.tolist() for _, y in first.take(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert first.state_dict() == {"epoch": 0, "position": 2}
    second.load_state_dict(first.state_dict())
    assert [y.tolist() for _, y in second] == [[8, 9]]
    assert [y.tolist() for _, y in second.take(1)] == [[0, 1, 2, 3]]
    for whole in (InMemoryBatches(x, x[:, 0], size=rows) for rows in (None, 10, 11)):
        assert len(whole) == 1 and [len(y) for _, y in whole.take(3)] == [10, 10, 10]
        assert whole.state_dict() == {"epoch": 0, "position": 1}
        assert len(list(whole)) == len(list(whole)) == 1
