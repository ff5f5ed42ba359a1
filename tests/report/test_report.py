from __future__ import annotations

import copy
import io
import re
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import fixture

from netwright.core import NetwrightError
from netwright.report import render, summary_table, summary_text, units, write_report
from netwright.report.plots import Bar, Point, Series, bars, line, scatter
from netwright.report.plots.axes import Scale
from netwright.report.recipe import to_toml
from netwright.report.render import checked_svg

EVIL = '<script>alert("x")</script>\'&'
VOID = {"meta", "link", "br", "img", "input", "hr"}


@pytest.fixture(scope="module")
def facts() -> dict:
    return fixture.facts()


@pytest.fixture(scope="module")
def page(facts: dict) -> str:
    return render(facts)


class Tags(HTMLParser):
    """Checks that tags are balanced and collects them with their attributes."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def parsed(page: str) -> list[tuple[str, dict]]:
    reader = Tags()
    reader.feed(page)
    assert reader.open == []
    return reader.tags


def test_the_page_is_balanced_small_and_loads_nothing(page: str):
    tags = parsed(page)
    assert len(page.encode()) < 1_000_000
    assert not [
        a for t, a in tags if "src" in a or (t in ("link", "use", "image", "iframe") and ("href" in a or "xlink:href" in a))
    ]
    assert "@import" not in page and "url(" not in page
    anchors = [a["href"] for t, a in tags if t == "a" and a["href"].startswith("#")]
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids)) and {h[1:] for h in anchors} <= set(ids)


def test_every_svg_is_well_formed_and_named(page: str):
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert len(drawings) == 13  # four of the forms, two fronts, two of training, time, exits, rates, the network, memory
    for svg in drawings:
        assert ElementTree.fromstring(svg).get("aria-label")


def test_all_forms_stand_in_the_table_with_the_kind_of_every_number(page: str):
    for name in fixture.FORMS:
        assert re.search(rf'<tr class="{name}">', page)
    for how in ("counted", "modelled", "measured"):
        assert page.count(f'class="tag {how}"') >= 3
    assert "98.89 %" in page and "4.99 kB" in page and "212 µs" in page and "11.3\u201313.9 µs" in page
    assert fixture.MARK in page


def test_other_processors_and_memory_have_their_sections(page: str):
    assert units.count(4_131_380) in page
    assert "needs more RAM than there is" in page and "bytes of arena" in page


def test_energy_is_never_called_measured(facts: dict):
    page = render(facts)
    assert re.search(r"Energy of the arithmetic <span class=\"tag modelled", page)
    for found in re.findall(r"[^<>]*[Ee]nergy[^<>]*<[^>]*>\s*(?:<span class=\"tag )(\w+)", page):
        assert found == "modelled"
    assert "never a measurement" in page


def test_names_of_the_user_are_escaped_everywhere():
    page = render(fixture.facts(EVIL))
    assert page.count("<script") == 1 and "alert(&" in page  # our own script alone
    assert '<script>alert("x")' not in page
    parsed(page)


def test_sections_without_facts_are_left_out(facts: dict):
    page = render({"summary": facts["summary"]})
    tags = parsed(page)
    ids = {a["id"] for t, a in tags if t == "section"}
    assert ids == {"forms", "devices", "limits", "reproduce"}
    assert {a["href"][1:] for t, a in tags if t == "a" and a["href"].startswith("#")} == ids


def test_one_form_and_missing_numbers_are_shown(facts: dict):
    short = copy.deepcopy(facts["summary"])
    short["variants"] = short["variants"][:1]
    short["variants"][0]["onnxruntime_latency_us"] = 12.5
    assert "12.5 µs" in render({"summary": short})


def test_a_run_without_forms_or_with_a_bad_drawing_is_refused(facts: dict):
    with pytest.raises(NetwrightError, match="no"):
        render({"summary": {**facts["summary"], "variants": []}})
    for bad in ("<svg><g></svg>", "<svg><script>1</script></svg>", '<svg onload="x()"/>', '<svg><a href="http://x"/></svg>'):
        with pytest.raises(NetwrightError, match="drawing"):
            checked_svg(bad)


def test_write_report_is_atomic(facts: dict, tmp_path: Path):
    path = write_report(tmp_path, facts)
    assert path == tmp_path / "report" / "index.html"
    before = path.read_text()
    with pytest.raises(NetwrightError):
        write_report(tmp_path, {"summary": {}})
    assert path.read_text() == before and list(path.parent.iterdir()) == [path]


def test_every_trial_is_a_point_and_the_chosen_one_is_marked(facts: dict, page: str):
    plot = next(s for s in re.findall(r"<svg.*?</svg>", page, flags=re.S) if "against float weights" in s)
    root = ElementTree.fromstring(plot)
    circles = [c for c in root.iter() if c.tag.endswith("circle")]
    assert len(circles) == len(facts["search"]["trials"])
    assert sum("chosen" in c.get("class") for c in circles) == 1
    assert all(c[0].tag.endswith("title") for c in circles)


def test_plots_put_values_where_they_belong():
    scale = Scale(1, 100, 0, 200, log=True)
    assert scale(10) == pytest.approx(100) and set(scale.ticks()) >= {1, 10, 100}
    assert Scale(0, 10, 0, 100).ticks() == [0, 2, 4, 6, 8, 10]
    root = ElementTree.fromstring(bars([Bar("a", 10.0), Bar("b", 5.0)], about="x", form=str))
    widths = [float(r.get("width")) for r in root.iter() if r.tag.endswith("rect")]
    assert widths[0] == pytest.approx(2 * widths[1])
    long = ElementTree.fromstring(bars([Bar("a", 100.0), Bar("b", 5.0), Bar("c", 4.0)], about="x", form=str))
    widths = [float(r.get("width")) for r in long.iter() if r.tag.endswith("rect")]
    assert widths[1] / widths[2] == pytest.approx(5 / 4) and widths[0] == pytest.approx(1.5 * widths[1])
    assert sum(p.get("class") == "gap" for p in long.iter()) == 1
    assert bars([], about="x", form=str) == "" and line([], x_label="", y_label="", about="", y_format=str) == ""
    one = line([Series("s", [(1, 0.5)])], x_label="t", y_label="y", about="a", y_format=str)
    ElementTree.fromstring(one)
    same = scatter([Point(5, 0.1, "a"), Point(5, 0.1, "b")], x_label="x", y_label="y", about="a", x_format=str, y_format=str)
    ElementTree.fromstring(same)


def test_the_recipe_is_toml_again(facts: dict):
    recipe = {
        "name": 'a "b"',
        "n": 1e-6,
        "list": [1, [2]],
        "flag": True,
        "none": None,
        "t": {"u": {"v": 1}, "w": {}},
        "m": {"k": {"x": "é"}},
    }
    back = tomllib.loads(to_toml(recipe))
    assert back == {"name": 'a "b"', "n": 1e-6, "list": [1, [2]], "flag": True, "t": {"u": {"v": 1}}, "m": {"k": {"x": "é"}}}
    assert to_toml("seed = 1 # mine") == "seed = 1 # mine"


def test_the_terminal_table_in_colour_and_plain(facts: dict):
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=200).print(summary_table(facts["summary"]))
    plain = summary_text(facts["summary"])
    for text in (stream.getvalue(), plain):
        for cell in ("float", "spiking, T=16", "98.89 %", "85.7 kB", "24.1 µs", "1.94 µJ"):
            assert cell in text
    assert len({len(row.split("  ")[0]) for row in plain.splitlines()[1:]}) >= 1 and plain.count("\n") == 7


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (units.size(999), "999 B"),
        (units.size(1234), "1.23 kB"),
        (units.size(None), units.MISSING),
        (units.duration(0.5), "0.5 µs"),
        (units.duration(12_345), "12.3 ms"),
        (units.energy(0), "0 pJ"),
        (units.count(1_234_567), "1.23 M"),
        (units.count(1234), "1,234"),
        (units.percent(0.98765), "98.77 %"),
        (units.power_of_ten(5_159_780_352), "5.2\u202f\u00d7\u202f10⁹"),
    ],
)
def test_units(written: str, expected: str):
    assert written == expected
