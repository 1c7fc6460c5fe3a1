"""Tests the page and the ranking of a comparison, from hand-written tables."""

import base64
import re

import polars as pl
import pytest

from descent.compare.page import STYLE, page, print_ranking


def test_nothing_on_the_page_is_taken_for_markup() -> None:
    table = pl.DataFrame({"a_<b>": ["<i>", "x"], "n&": [1.23456, None], "count": [12345, 0]})
    figures = [('one "<"', b"\x01"), ("two", b"\x02"), ("two", b"\x03")]
    one, two, three = (base64.b64encode(png).decode() for _, png in figures)
    assert list(page("1 < 2", table, figures, ["a < b", "c"], ["d <e>", "f"])) == [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Comparison</title><style>{STYLE}</style>",
        "<h1>1 &lt; 2</h1>",
        "<p>a &lt; b</p><p>c</p><div><table><tr>",
        "<th>a &lt;b&gt;</th><th>n&amp;</th><th>count</th></tr>",
        "<tr><td>&lt;i&gt;</td><td>1.235</td><td>12345</td></tr>",
        "<tr><td>x</td><td></td><td>0</td></tr>",
        "</table></div>",
        f'<figure><img alt="one &quot;&lt;&quot;" src="data:image/png;base64,{one}"></figure>',
        f'<figure><img alt="two" src="data:image/png;base64,{two}"></figure>',
        f'<figure><img alt="two" src="data:image/png;base64,{three}"></figure>',
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
