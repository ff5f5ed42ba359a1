import csv
import gzip
import json

import numpy as np
import pytest

from netwright.bench.estimate.table import Columns, load, only, run
from netwright.cli import main
from netwright.core.errors import DataError, UnknownName
from netwright.estimate.tables import make_table, read_rows
from netwright.estimate.tables.code import codes

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ("e01", "e02", "e12", "e03", "e13", "e23")


def rows(count=120, seed=0):
    """Codes of four places, and a label that the second and the third decide."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        a, b, c, d = rng.integers(0, 4, 4)
        code = f"k{3 + 2 * a}_e{b}-{'xyzw'[c]}-{d}-{i % 5}"
        found.append({"name": f"n{i}", "arch": code, "acc": f"{2 * b + (c == 1) + 0.1 * rng.normal():.4f}", "proxy": f"{b}"})
    return found


def written(path, found):
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as stream:
        writer = csv.DictWriter(stream, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    return path


def test_any_table_with_a_code(tmp_path):
    done = run(written(tmp_path / "t.csv.gz", rows()), "arch,acc,proxy", labels=(32,), seeds=2, predictors=("ridge", "forest"))
    by = {row.predictor: row for row in done.rows}
    assert by["ridge"].tau > 0.7 and by["forest"].tau > 0.6 and abs(by["random"].tau) < 0.3
    assert by["proxy"].tau > 0.5 and by["nearest"].tau > 0.3 and by["ridge"].seeds == 2
    assert (
        0.6 < by["ridge"].coverage <= 1
        and by["random"].coverage is None
        and by["ridge"].tests == done.facts["architectures"] - 32
    )
    data = done.to_json()
    assert json.loads(json.dumps(data))["rows"][0]["predictor"] == "random" and not data["graphs"]
    text = done.write_csv(tmp_path).read_text()
    assert text.count("\nridge,") == 0 and "32,ridge,False,2," in text and text.startswith("# table: t.csv.gz")
    drawing = done.plot()
    assert drawing.startswith("<svg") and ">forest</text>" in drawing and drawing.count("stroke-dasharray") == 3


def test_less_is_better(tmp_path):
    path = written(tmp_path / "t.csv", rows())
    more, less = (
        run(path, "arch,acc", labels=(40,), seeds=1, predictors=("ridge",), less=less).rows[-1] for less in (False, True)
    )
    assert more.predictor == less.predictor == "ridge" and more.tau > 0.7 and less.tau > 0.7
    table, _, _ = load(path, "arch,acc", less=True)
    assert table.y.max() <= 0.5 and less.regret >= 0


def test_graphs_bring_baselines_of_their_own(tmp_path):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        operations = [str(o) for o in rng.choice(OPERATIONS, 6)]
        graph = {"edge_ops": dict(zip(("0-1", "0-2", "1-2", "0-3", "1-3", "2-3"), operations, strict=True))}
        found.append(
            {
                "graph": graph,
                "acc": operations.count("nor_conv_3x3") + 0.1 * rng.normal(),
                **dict(zip(EDGES, operations, strict=True)),
            }
        )
    path = tmp_path / "g.json"
    path.write_text(json.dumps(found))
    done = run(path, "graph,acc", labels=(20,), seeds=1, predictors=("ridge",))
    assert {"parameters", "path products", "nearest"} <= {row.predictor for row in done.rows} and done.facts["graphs"]
    edges, names, _ = load(path, "e??,acc")
    assert names.arch == EDGES and edges.features.cells == load(path, "graph,acc")[0].features.cells
    assert Columns.parse(",".join((*EDGES, "acc")), read_rows(path)).arch == EDGES


def test_columns():
    table = [{"a": "x", "b": "y", "e01": "1", "e02": "2", "acc": "0.5", "p": "3", "c+d": "7"}]
    assert Columns.parse("a,acc", table) == Columns(("a",), "acc")
    assert Columns.parse("a,b,acc,p", table) == Columns(("a", "b"), "acc", ("p",))
    assert Columns.parse("e01+e02, acc", table) == Columns(("e01", "e02"), "acc")
    assert Columns.parse("e0?,acc,c+d", table) == Columns(("e01", "e02"), "acc", ("c+d",))
    for text, match in (
        ("a,nope", "no column 'nope'"),
        ("a", "names no column of labels"),
        ("", "no columns"),
        ("a,a", "of labels"),
    ):
        with pytest.raises(DataError, match=match):
            Columns.parse(text, table)


def test_twins_and_holes_are_told(tmp_path):
    found = rows(40)
    twins = [{**found[0], "acc": str(float(found[0]["acc"]) + 2)}, {**found[1], "acc": "nan"}, {**found[2], "arch": " "}]
    table, _, notes = load(written(tmp_path / "t.csv", [*found, *twins]), "arch,acc")
    archs = len({row["arch"] for row in found})
    assert len(table) == archs and "2 of 43 rows dropped" in notes[0] and "averaged" in notes[1]
    assert np.isclose(table.y[0], np.mean([float(r["acc"]) for r in (*found, *twins[:1]) if r["arch"] == found[0]["arch"]]))
    apart, _, told = load(tmp_path / "t.csv", "arch,acc,proxy")
    assert len(apart) >= archs and "averaged" in told[1]


def test_a_part_of_a_large_table(tmp_path):
    table, _, notes = load(written(tmp_path / "t.csv", rows(300)), "arch,acc", most=100)
    assert len(table) == 100 and "100 of" in notes[-1] and "at random" in notes[-1]
    with pytest.raises(DataError, match="allow 8 to"):
        run(tmp_path / "t.csv", "arch,acc", labels=(5,), predictors=("ridge",))
    with pytest.raises(DataError, match="labels were asked for"):
        run(tmp_path / "t.csv", "arch,acc", labels=(5000,), predictors=("ridge",))
    with pytest.raises(UnknownName, match="ridge"):
        run(tmp_path / "t.csv", "arch,acc", predictors=("rigde",))


def test_only_some_rows():
    table = [{"task": "a", "y": "1"}, {"task": "b", "y": "2"}]
    assert only(table, ["task=b"]) == table[1:] and only(table, []) == table
    for where, match in (("task=c", "task holds a, b"), ("no=1", "no column 'no'")):
        with pytest.raises(DataError, match=match):
            only(table, [where])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda found: found[:10], "too few for a benchmark"),
        (lambda found: [{**row, "acc": "1.0"} for row in found], "all labels in 'acc' are equal"),
        (lambda found: [{**row, "acc": "good"} for row in found], "'acc' holds no number"),
        (lambda found: [{**row, "arch": row["name"]} for row in found], "no token in common"),
    ],
)
def test_plain_errors(tmp_path, change, match):
    with pytest.raises(DataError, match=match):
        run(written(tmp_path / "t.csv", change(rows(60))), "arch,acc", predictors=("ridge",))


def test_codes_of_every_shape():
    same = codes([{"a": f"(0, {i % 4}, {i % 3})"} for i in range(12)])
    assert same.names["code"] == ("1", "2") and same.names["choice"][:4] == ("1=0", "1=1", "1=2", "1=3")
    objects = codes([{"a": str({"ks": [3, 5 + i % 2], "d": i % 3})} for i in range(12)])
    assert objects.names["code"] == ("ks.1", "d")
    ragged = codes([{"a": "|".join(["k3_e6"] * (1 + i % 3) + ["k5_e1"] * (i % 2))} for i in range(12)])
    assert {"length", "k3_e6", "k+", "e+"} <= {name.strip() for name in ragged.names["counts"]}
    column = ragged.blocks["counts"][:, [n.strip() for n in ragged.names["counts"]].index("e+")]
    assert column.tolist() == [6 * (1 + i % 3) + i % 2 for i in range(12)]
    spelled = codes([{"a": f"0{i % 2}{i % 3}1"} for i in range(12)])
    assert spelled.names["code"] == ("1", "2")
    several = codes([{"op1": "xy"[i % 2], "op2": "yx"[i % 2], "w": f"{i}"} for i in range(12)])
    assert several.names["code"] == ("w",) and "op1=x" in several.names["choice"]
    negative = codes([{"a": f"{-(i % 5)},2"} for i in range(12)])
    assert negative.blocks["code"][:, 0].min() == -4
    pairs = codes([{"a": str([[(0, i % 5), (1, i % 3)], [(i % 2, 4), (2, 0)]])} for i in range(30)])
    assert any(name.startswith("[1] ") for name in pairs.names["counts"])


def test_rows_of_every_file(tmp_path):
    texts = {
        "a.json": '[{"arch": "x-1", "y": 1}, {"arch": "y-2", "z": null}]',
        "b.json": '{"n0": {"arch": "x-1", "y": 1}, "n1": {"arch": "y-2"}}',
        "c.json": '{"arch": ["x-1", "y-2"], "y": [1, null]}',
        "d.jsonl": '{"arch": "x-1", "y": 1}\n{"arch": "y-2"}\n',
        "e.csv": "\ufeffarch, y\nx-1,1\ny-2\n",
        "f.csv": "arch;y\nx-1;1\ny-2;\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        found = read_rows(tmp_path / name)
        assert [(row["arch"], row["y"]) for row in found] == [("x-1", "1"), ("y-2", "")], name
    for name, text in (("g.json", "[1, 2]"), ("h.json", "{"), ("i.csv", ""), ("j.csv", "a,b\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=name):
            read_rows(tmp_path / name)
    (tmp_path / "k.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="not a table"):
        read_rows(tmp_path / "k.csv.gz")


def test_adjacency_without_its_first_zeros():
    row = {"m": "110" + "0001" + "0001" + "0000", "ops": "input,conv3x3,maxpool3x3,output", "y": "1"}
    assert make_table([row], "y", ("m", "ops")).features.cells[0].operations == ("input", "conv3x3", "pool3x3", "output")


def test_words_beside_an_architecture():
    found = [{"arch": f"{i % 3}-{i % 4}", "y": str(i), "optimiser": ("adam", "sgd")[i % 2], "id": f"n{i}"} for i in range(80)]
    table = make_table(found, "y", numbers=("optimiser",))
    assert table.features.names["numbers"] == ("optimiser=adam", "optimiser=sgd")
    with pytest.raises(DataError, match="different texts"):
        make_table(found, "y", numbers=("id",))


def test_command(tmp_path, capsys):
    path = str(written(tmp_path / "t.csv", rows(60)))
    options = ["--labels", "20", "--seeds", "1", "--predictors", "ridge"]
    assert main(["bench", "estimate", "--table", path, "--columns", "arch,acc", *options, "--json"]) == 0
    assert {row["predictor"] for row in json.loads(capsys.readouterr().out)["rows"]} == {"random", "nearest", "ridge"}
    files = ["--out", str(tmp_path / "o.csv"), "--plot", str(tmp_path / "o.svg")]
    assert main(["bench", "estimate", "--table", path, "--columns", "arch,acc", *options, *files]) == 0
    assert "ridge" in capsys.readouterr().out and (tmp_path / "o.csv").exists() and (tmp_path / "o.svg").exists()
    assert main(["bench", "estimate", "--table", path, "--columns", "arch,no"]) == 1
    assert "no column 'no'" in capsys.readouterr().err
    assert main(["bench", "deploy", "--table", path, "--columns", "arch,acc"]) == 1
    assert main(["bench", "estimate", "--table", path, "--columns", "arch,acc", "--labels", "many"]) == 1


def test_graphs_of_other_dialects():
    straight = {"operations": ["input", "conv3x3", "maxpool3x3", "output"], "edges": [[0, 1], [1, 2], [2, 3], [0, 3]]}
    others = [
        {"ops": ["output", "conv3x3", "input", "maxpool3x3"], "edges": [[2, 1], [1, 3], [3, 0], [2, 0]]},
        {"nodes": [{"op": name} for name in straight["operations"]], "links": straight["edges"]},
        {"matrix": [[0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], "ops": straight["operations"]},
    ]
    texts = [json.dumps(straight), *map(json.dumps, others), str(others[0])]
    cells = make_table([{"arch": t, "y": "1"} for t in texts], "y").features.cells
    assert len({cell.key for cell in cells}) == 1 and cells[0].operations == ("input", "conv3x3", "pool3x3", "output")
    nb101 = {"module_adjacency": others[2]["matrix"], "module_operations": straight["operations"]}
    assert make_table([{"arch": json.dumps(nb101), "y": "1"}], "y").features.cells[0].join == "concat"
    circle = {"ops": ["input", "conv3x3", "conv1x1", "output"], "edges": [[0, 1], [1, 2], [2, 1], [2, 3]]}
    with pytest.raises(DataError, match="without a cycle"):
        make_table([{"arch": json.dumps(circle), "y": "1"}], "y")
