"""Compares polynomials, perceptrons and losses with plain loops, NumPy, scikit-learn and torch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, config_of, load, split
from drawn import drawn, lines
from lightning.pytorch import LightningModule, Trainer
from numpy.polynomial import Polynomial as NumpyPolynomial
from sklearn import metrics as sklearn_metrics
from sklearn.linear_model import LinearRegression as SklearnRegression
from sklearn.preprocessing import PolynomialFeatures
from test_divergence import notes
from test_evaluate_predict import trained
from test_train import events
from torch.nn.functional import huber_loss

from descent.errors import UserError
from descent.run.evaluate import evaluate
from descent.training.checkpoint_io import read_checkpoint
from descent.training.sparse_callback import SparseCallback
from regression.data.standardization import Standardization
from regression.predict import predict_file

RNG = np.random.default_rng(0)
X = RNG.normal(20, 4, (30, 2))
Y = 300 + 5 * X[:, 0] - 0.4 * X[:, 0] ** 2 + 3 * X[:, 1] + RNG.standard_normal(30)
TABLE = ("data=table", "data.path=rows.csv", "data.target=y", "data.val_fraction=0.2", "data.test_fraction=0.2")
EXACT = ("trainer=float64", "batch=full", "trainer.log_every_n_steps=1")
CUBIC = ("model=polynomial", "model.degree=3")


@pytest.fixture(autouse=True)
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["a,b,y", *(",".join(map(repr, row)) for row in np.c_[X, Y].tolist())]
    Path("rows.csv").write_text("\n".join(lines))


def parts(*overrides: str) -> dict[str, tuple[Any, Any]]:
    """Returns the inputs and targets of each split, in their own units."""
    data = config_of(*overrides).data
    found = load(data)
    chosen = split(data, len(found.targets))
    return {name: (found.inputs[part], found.targets[part]) for name, part in chosen._asdict().items()}


def terms(x: Any, degree: int) -> Any:
    return np.stack([x[:, j] ** k for j in range(x.shape[1]) for k in range(1, degree + 1)], axis=1)


class First(SparseCallback):
    """Keeps the weights before the first step."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights = [weight.detach().clone() for weight in pl_module.parameters()]


def own_loss(name: str, y: Any, predicted: Any, scale: float) -> float:
    if name == "huber":
        return huber_loss(torch.tensor(predicted), torch.tensor(y), delta=scale).item()
    return float(
        {"mse": sklearn_metrics.mean_squared_error, "mae": sklearn_metrics.mean_absolute_error}[name](y, predicted)
    )


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
@pytest.mark.parametrize("standardize", [True, False])
def test_a_perceptron_trains_as_in_a_plain_loop(loss: str, standardize: bool, run: Run) -> None:
    first = First()
    overrides = *TABLE, *EXACT, "data.features=[a]", f"data.standardize={standardize}", "optimizer.lr=1e-3"
    shape = "model=mlp", f"model.loss={loss}", "model.hidden=[4,3]", "model.activation=Tanh", "trainer.max_epochs=30"
    result = run(*overrides, *shape, callbacks=[first])
    split_rows = parts(*overrides)
    x, y = split_rows["train"]
    mean, scale, middle, size = (x.mean(0), x.std(0), y.mean(), y.std()) if standardize else (0.0, 1.0, 0.0, 1.0)
    weights = [weight.requires_grad_() for weight in first.weights]

    def predict(inputs: Any) -> Any:
        w1, b1, w2, b2, w3, b3 = weights
        z = torch.tensor((inputs - mean) / scale)
        return (torch.tanh(torch.tanh(z @ w1.T + b1) @ w2.T + b2) @ w3.T + b3)[:, 0]

    target = torch.tensor((y - middle) / size)
    for _ in range(30):
        error = predict(x) - target
        large = error.abs()
        rows_loss = {"mse": error**2, "mae": large, "huber": torch.where(large <= 1, error**2 / 2, large - 0.5)}
        gradients = torch.autograd.grad(rows_loss[loss].mean(), weights)
        weights = [(w - 1e-3 * g).detach().requires_grad_() for w, g in zip(weights, gradients, strict=True)]
    assert [tuple(weight.shape) for weight in weights] == [(4, 1), (4,), (3, 4), (3,), (1, 3), (1,)]
    for part in ("train", "val"):
        own = predict(split_rows[part][0]).detach().numpy() * size + middle
        expected = own_loss(loss, split_rows[part][1], own, size)
        assert result.metrics[f"{part}/loss"] == pytest.approx(expected, rel=1e-9)
        if part == "val":
            actual = split_rows[part][1]
            assert result.metrics["val/mae"] == pytest.approx(np.abs(actual - own).mean(), rel=1e-9)
            assert result.metrics["val/r2"] == pytest.approx(sklearn_metrics.r2_score(actual, own), rel=1e-9)


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
@pytest.mark.parametrize("model", ["linear", "polynomial"])
def test_losses_are_in_the_datas_own_units(model: str, loss: str, run: Run, tmp_path: Path) -> None:
    overrides = *TABLE, *EXACT, f"model={model}", f"model.loss={loss}", "optimizer.lr=0.01", "trainer.max_epochs=5"
    result = run(*overrides)
    split_rows = parts(*overrides)
    weight, bias = result.parameters["weight"], result.parameters["bias"]
    size = split_rows["train"][1].std()
    for part in ("train", "val"):
        x, y = split_rows[part]
        own = terms(x, 2 if model == "polynomial" else 1) @ np.array(weight) + bias
        assert result.metrics[f"{part}/loss"] == pytest.approx(own_loss(loss, y, own, size), rel=1e-9)
    curve = [point.value for point in events(tmp_path / "0").Scalars("train/loss")]  # before each step
    assert curve[0] > curve[-1] > result.metrics["train/loss"] > 0.5 * curve[-1]
    assert (result.optimum is None) == (loss != "mse")
    assert (not [tag for tag in events(tmp_path / "0").Tags()["scalars"] if "optimum" in tag]) == (loss != "mse")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("standardize", [True, False])
def test_the_optimum_of_a_polynomial_equals_scikit_learns_and_is_reached(
    standardize: bool, bias: bool, run: Run
) -> None:
    options = f"data.standardize={standardize}", f"model.bias={bias}"
    overrides = *TABLE, *EXACT, "model=polynomial", *options, "optimizer=lbfgs", "+optimizer.tolerance_change=0"
    result = run(*overrides, "+optimizer.tolerance_grad=0", "trainer.max_epochs=60")
    x, y = parts(*overrides)["train"]
    expected = SklearnRegression(fit_intercept=bias).fit(terms(x, 2), y)
    found = result.optimum
    assert found["weight"] == pytest.approx(expected.coef_.tolist(), rel=1e-7)
    assert found["bias"] == (pytest.approx(expected.intercept_, rel=1e-7) if bias else None)
    assert found["loss"] == pytest.approx(((expected.predict(terms(x, 2)) - y) ** 2).mean(), rel=1e-9)
    assert found["unique"] and found["lower_by"] == 0
    z = x if not standardize else (x - (x.mean(0) if bias else 0)) / (x.std(0) if bias else (x**2).mean(0) ** 0.5)
    design = np.c_[terms(z, 2), np.ones(len(z))] if bias else terms(z, 2)
    curvature = np.linalg.eigvalsh(2 * design.T @ design / len(z))
    assert found["max_stable_lr"] == pytest.approx(2 / curvature[-1], rel=1e-9)
    assert found["condition_number"] == pytest.approx(curvature[-1] / curvature[0], rel=1e-4)
    assert result.terms == ["a", "a^2", "b", "b^2"]
    excess = result.metrics["train/loss"] - found["loss"]
    assert result.metrics["optimum/excess_loss"] == pytest.approx(excess, rel=1e-3, abs=1e-9 * found["loss"])
    distance = np.subtract(result.parameters["weight"], found["weight"]).tolist()
    distance += [result.parameters["bias"] - found["bias"]] if bias else []
    assert result.metrics["optimum/distance"] == pytest.approx(np.linalg.norm(distance), rel=1e-6)
    if standardize:
        assert result.parameters["weight"] == pytest.approx(found["weight"], rel=1e-3)


def test_the_powers_of_one_feature_equal_those_of_scikit_learn_and_numpy(run: Run, tmp_path: Path) -> None:
    overrides = *TABLE, *EXACT, "data.features=[a]", "model=polynomial", "model.degree=4", "optimizer.lr=0.01"
    result = run(*overrides, "trainer.max_epochs=2")
    x, y = parts(*overrides)["train"]
    features = PolynomialFeatures(4, include_bias=False).fit(x, y)
    assert result.terms == [name.replace("x0", "a") for name in features.get_feature_names_out()]
    fitted = NumpyPolynomial.fit(x[:, 0], y, 4).convert().coef
    assert [result.optimum["bias"], *result.optimum["weight"]] == pytest.approx(fitted, rel=1e-6)
    tags = [tag for tag in events(tmp_path / "0").Tags()["scalars"] if tag.startswith("parameters/weight")]
    assert tags == [f"parameters/weight_{name}" for name in ("a", "a^2", "a^3", "a^4")]


def test_a_polynomial_converts_from_standardised_to_own_units() -> None:
    units = Standardization([20.0, -3.0], [4.0, 0.5], 100.0, 7.0)
    weight, bias = units.own_units([0.5, -1.0, 2.0, 3.0, 0.25, -0.125], 0.75)
    for number, (mean, scale, inner) in enumerate([(20.0, 4.0, [0, 0.5, -1, 2]), (-3.0, 0.5, [0, 3, 0.25, -0.125])]):
        expected = 7.0 * NumpyPolynomial(inner)(NumpyPolynomial([-mean / scale, 1 / scale]))
        assert weight[3 * number : 3 * number + 3] == pytest.approx(expected.coef[1:].tolist(), rel=1e-12)
        bias = (bias or 0.0) - expected.coef[0]
    assert bias == pytest.approx(100 + 7 * 0.75, rel=1e-12)


def test_a_polynomial_on_synthetic_data_names_its_terms_and_has_zero_true_weights_for_powers(
    run: Run, tmp_path: Path
) -> None:
    result = run("data.num_features=2", *CUBIC, "trainer.max_epochs=1", "data.num_samples=40", "optimizer.lr=0.001")
    one, other = (w for w in result.true_parameters["weight"] if w)
    assert result.true_parameters["weight"] == [one, 0, 0, other, 0, 0]
    assert result.terms == ["x_1", "x_1^2", "x_1^3", "x_2", "x_2^2", "x_2^3"]
    assert "parameters/weight_2^3" in events(tmp_path / "0").Tags()["scalars"]


def test_a_perceptron_reports_no_parameters_and_no_optimum(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = run("model=mlp", "optimizer.lr=0.5", "trainer.max_epochs=1")
    assert (result.parameters, result.true_parameters, result.optimum, result.terms) == (None, None, None, [])
    tags = events(tmp_path / "0").Tags()["scalars"]
    assert "train/loss" in tags and not [tag for tag in tags if tag.startswith(("optimum/", "parameters/"))]
    shown = [table for callback in result.callbacks for table in callback.tables(result.as_dict())]
    assert shown == ["rows: train 800, val 100, test 100"]
    assert not [note for note in notes(caplog) if "learning rate" in note]


@pytest.mark.parametrize(("loss", "said"), [("mse", True), ("mae", False), ("huber", False)])
def test_only_the_mean_squared_error_has_a_stable_rate(
    loss: str, said: bool, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    result = run(*TABLE, *EXACT, *CUBIC, f"model.loss={loss}", "optimizer.lr=2", "trainer.max_epochs=1")
    assert any("above" in note and "diverges on full batches" in note for note in notes(caplog)) == said
    assert (result.optimum is not None) == said


@pytest.mark.parametrize("model", ["linear", "polynomial", "mlp"])
def test_evaluation_and_prediction_equal_values_by_hand(model: str, tmp_path: Path) -> None:
    overrides = *TABLE, f"data.path={tmp_path}/rows.csv", *EXACT, f"model={model}", "model.loss=huber"
    run_dir = trained(tmp_path / "run", *overrides, "trainer.max_epochs=20", "optimizer=adam")
    found = evaluate(run_dir)
    x, y = parts(*overrides)["test"]
    saved = read_checkpoint(run_dir / "checkpoints/best.ckpt")
    state = {name: weight.numpy() for name, weight in saved["state_dict"].items()}
    train_x, train_y = parts(*overrides)["train"]

    def predict(inputs: Any) -> Any:
        z = (inputs - train_x.mean(0)) / train_x.std(0)
        if model == "mlp":
            hidden = np.maximum(z @ state["layers.0.weight"].T + state["layers.0.bias"], 0)
            z = hidden @ state["layers.2.weight"][0] + state["layers.2.bias"]
        else:
            z = terms(z, 2 if model == "polynomial" else 1) @ state["linear.weight"][0] + state["linear.bias"]
        return z * train_y.std() + train_y.mean()

    huber = own_loss("huber", y, predict(x), train_y.std())
    assert found["test/loss"] == pytest.approx(huber, rel=1e-9)
    everywhere = evaluate(run_dir, data=tmp_path / "rows.csv")
    assert everywhere["test/loss"] == pytest.approx(own_loss("huber", Y, predict(X), train_y.std()), rel=1e-9)
    predict_file(run_dir, tmp_path / "rows.csv", tmp_path / "out.csv")
    columns = np.loadtxt(tmp_path / "out.csv", delimiter=",", skiprows=1)
    assert columns[:, -1] == pytest.approx(predict(X), rel=1e-9)


@pytest.mark.parametrize("model", ["polynomial", "mlp"])
def test_the_figures_show_the_last_weights(model: str, run: Run, tmp_path: Path) -> None:
    last = "optimizer.lr=0.01", "trainer.max_epochs=9", "figures=true", "predict_at=[[15],[20]]"
    with drawn() as figures:
        result = run(*TABLE, *EXACT, f"model={model}", "data.features=[a]", *last)
    _, *curves = lines(figures[1][0].axes[0])
    labels = ["learned", *(["least squares"] if model == "polynomial" else [])]
    assert [label for label, *_ in curves] == labels
    xs, ys = zip(*curves[0][4], strict=True)
    assert (min(xs), max(xs)) == (parts(*TABLE)["train"][0][:, 0].min(), parts(*TABLE)["train"][0][:, 0].max())
    for entry in result.predictions:
        assert np.interp(entry["input"][0], xs, ys) == pytest.approx(entry["after"], rel=1e-3)
    if model == "polynomial":
        for curve, (one, two), bias in zip(
            curves,
            (result.parameters["weight"], result.optimum["weight"]),
            (result.parameters["bias"], result.optimum["bias"]),
            strict=True,
        ):
            assert [y for _, y in curve[4]] == pytest.approx([bias + one * x + two * x**2 for x, _ in curve[4]])
    assert {path.stem for path in (tmp_path / "0/figures").iterdir()} == {"predicted", "fit"}


def test_a_model_with_two_powers_of_one_feature_has_contours(run: Run) -> None:
    two = "model=polynomial", "model.bias=false", "data.features=[a]", "data.standardize=false", "optimizer=adam"
    with drawn() as figures:
        result = run(*TABLE, *EXACT, *two, "trainer.max_epochs=3", "figures=true")
    axes = figures[-1][0].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("weight of a", "weight of a^2")
    x, _ = parts(*TABLE, "data.features=[a]")["train"]
    a = terms(x, 2)
    assert np.array(result.optimum["hessian"]) == pytest.approx(2 * a.T @ a / len(a), rel=1e-9)


def test_an_ill_conditioned_polynomial_is_noted(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    raw = "data.standardize=false", "data.features=[a]", "model=polynomial", "model.degree=9", "optimizer.lr=1e-30"
    result = run(*TABLE, *EXACT, *raw, "trainer.max_epochs=1")
    x, y = parts(*TABLE, "data.features=[a]")["train"]
    best = ((NumpyPolynomial.fit(x[:, 0], y, 9)(x[:, 0]) - y) ** 2).mean()  # NumPy rescales x
    found = result.optimum
    assert not found["unique"] and found["lower_by"] > 0
    assert best < found["loss"] - found["lower_by"] < 0.1 * found["loss"]
    assert any(
        "ill-conditioned" in note and f"at least {found['lower_by']:.3g} below" in note for note in notes(caplog)
    )


def test_too_large_powers_and_ambiguous_names_are_refused(run: Run) -> None:
    with pytest.raises(UserError) as raised:
        run(*TABLE, "data.standardize=false", "model=polynomial", "model.degree=11")
    largest = max(float(np.abs(X).max()), 0)
    rule = (
        f"such that powers of features up to {largest:.4g} (data.standardize=true makes them smaller) are at most 1e+15"
    )
    assert str(raised.value) == f"model.degree must be {rule}, got 11"
    Path("rows.csv").write_text("a,a^2,y\n1,2,3\n2,3,5\n3,1,8\n")
    rows = "data=table", "data.path=rows.csv", "data.target=y", "data.val_fraction=0", "data.test_fraction=0"
    with pytest.raises(UserError) as raised:
        run(*rows, "model=polynomial")
    assert str(raised.value) == "column a^2 must be renamed: a power of another column has this name"
    assert run(*rows, "trainer.max_epochs=1").status == "completed"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.loss=l2", "model.loss must be one of mse, mae, huber, got 'l2'"),
        ("model.hidden=0", "model.hidden must be a positive integer or a list, each a positive integer, got 0"),
        (
            "model.hidden=[4,0]",
            "model.hidden must be a positive integer or a list, each a positive integer, got [4, 0]",
        ),
    ],
)
def test_an_invalid_model_config_is_refused_in_one_line(override: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        config_of("model=mlp", override)
    assert str(raised.value).startswith(said)
