"""Tests the page and the ranking of a comparison, from hand-written tables."""

import base64
import re

import polars as pl
import pytest

from descent.compare.page import STYLE, page, print_ranking, ranked


def test_nothing_on_the_page_is_taken_for_markup() -> None:
    table = [("a_<b>", ["<i>", "x"]), ("n&", ["1.235", ""]), ("count", ["12345", "0"])]
    figures = [('one "<"', "<b>", b"\x01"), ("two", "", b"\x02"), ("two", "It's", b"\x03")]
    one, two, three = (base64.b64encode(png).decode() for *_, png in figures)
    assert list(page("1 < 2", table, figures, ["a < b", "c"], ["d <e>", "f"])) == [
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>Comparison</title><style>{STYLE}</style>",
        "<h1>1 &lt; 2</h1>",
        "<p>a &lt; b</p><p>c</p><div><table><tr>",
        "<th>a_&lt;b&gt;</th><th>n&amp;</th><th>count</th></tr>",
        "<tr><td>&lt;i&gt;</td><td>1.235</td><td>12345</td></tr>",
        "<tr><td>x</td><td></td><td>0</td></tr>",
        "</table></div><p>settings.csv has all columns, and runs.csv has a row for each run.</p>",
        f'<figure><img alt="one &quot;&lt;&quot;" src="data:image/png;base64,{one}">'
        "<figcaption>&lt;b&gt;</figcaption></figure>",
        f'<figure><img alt="two" src="data:image/png;base64,{two}"></figure>',
        f'<figure><img alt="two" src="data:image/png;base64,{three}"><figcaption>It&#x27;s</figcaption></figure>',
        "<h2>Left out</h2><ul><li>d &lt;e&gt;</li><li>f</li></ul>",
        "</html>",
    ]


def test_the_ranking_folds_long_names_and_neither_colours_nor_breaks_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"COLUMNS": "40", "FORCE_COLOR": "1", "TERM": "xterm", "NO_COLOR": ""}.items():
        monkeypatch.setenv(name, value)
    numbers = {"val/r2 mean": [0.987654, None], "val/r2 deviation": [0.0456, None], "own": [0.0123, None]}
    table = pl.DataFrame({"setting": ["abcdefghijklmnopqrstuvwxyz0123456789", "b"], "diverged": [0, 0], **numbers})
    line = f"[b]1 of 'x'[/b] {'and so on ' * 5}end"
    print_ranking(table, "val/r2", ["own"], [line])
    head, _, *lines = capsys.readouterr().out.splitlines()[1:]
    assert re.sub(r"\x1b\[\d+m", "", head).split() == ["setting", "val/r2", "own"]  # only titles are bold
    assert [line.rstrip() for line in lines] == [
        " abcdefghijklmn   0.9877 ± 0.05   0.012",
        " opqrstuvwxyz01",
        " 23456789",
        " b",
        "",
        line,
    ]


FULL = {
    **{"setting": ["a", "b"], "runs": [2, 1], "diverged": [0, 1]},
    **{"loss mean": [1.23456, None], "loss deviation": [0.25, None], "own": [0.0123, None]},
    **{"at target": [2, 0], "missed": [0, 1], "steps to target": [30.0, None], "other": [1, 2]},
}
SHOWN = {
    **{"setting": ["a", "b"], "runs": ["2", "1"], "diverged": ["0", "1"], "loss": ["1.235 ± 0.2", ""]},
    **{"own": ["0.012", ""], "at target": ["2/2", "0/1"], "steps to target": ["30", ""]},
}


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, []),
        ({"diverged": [0, 0]}, ["diverged"]),
        ({"own": [None, None]}, ["own"]),
        ({"at target": [0, 0], "steps to target": [None, None], "missed": [0, 0]}, ["at target", "steps to target"]),
    ],
    ids=str,
)
def test_the_page_and_the_console_show_the_same_cells_and_no_empty_column(
    given: dict[str, list[int | None]],
    missing: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = pl.DataFrame(FULL | given, strict=False)
    shown = {title: cells for title, cells in SHOWN.items() if title not in missing}
    found = ranked(table, "loss", ["own"], runs=True)
    assert found == [*shown.items()]
    monkeypatch.setenv("COLUMNS", "200")
    print_ranking(table, "loss", ["own"], [])
    printed = capsys.readouterr().out.splitlines()
    first = [cells[0] for title, cells in shown.items() if title != "runs"]
    assert next(line for line in printed if line.startswith(" a ")).split() == " ".join(first).split()


def test_the_page_is_dark_where_the_system_is_and_its_figures_stay_on_white() -> None:
    before, dark = STYLE.split("@media (prefers-color-scheme: dark)")
    assert "color-scheme: light dark" in before
    brightness = []
    for part in (before, dark):
        found = re.search(r"body { color: #(\w)\w+; background: #(\w)\w+ }", part)
        assert found is not None
        brightness.append([int(digit, 16) for digit in found.groups()])
    (text, paper), (light_text, dark_paper) = brightness
    assert paper - text > 10 and light_text - dark_paper > 10
    assert re.search(r"img {[^}]*background: #fff", STYLE)
