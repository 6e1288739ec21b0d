"""What a report's page holds: nothing lost, nothing run that was meant as text, nothing asked of a network."""

import base64
import gzip
import json
import re
import shlex
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from html.parser import HTMLParser
from itertools import pairwise

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import broken
import studies
from command import subspace
from subspace_tuning.errors import BadInput
from subspace_tuning.report import configs, curves
from subspace_tuning.report.build import Source
from subspace_tuning.report.page import to_json
from subspace_tuning.report.serve import server
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.recipe import make, override
from subspace_tuning.run.train import run
from subspace_tuning.sweep.results import gather
from tiny import recipe

SMALL = {"tasks": ("cola", "rte"), "models": ("roberta-base",), "seeds": 2}
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)
values = st.recursive(plain, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3))


class Parts(HTMLParser):
    """The data blocks of a page by id, and whatever would load something."""

    def __init__(self, page):
        super().__init__()
        self.blocks, self.loads, self.tags, self._id = {}, [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        own = dict(attributes)
        self.tags.append(tag)
        self._id = own.get("id") if tag == "script" else None
        self.loads += [own[name] for name in ("src", "href", "action", "data") if own.get(name)]

    def handle_data(self, text):
        if self._id:
            self.blocks[self._id] = self.blocks.get(self._id, "") + text

    @property
    def data(self):
        return json.loads(self.blocks["data"])

    @property
    def details(self):
        return json.loads(gzip.decompress(base64.b64decode(self.blocks["details"])))


def column(data):
    return data if isinstance(data, list) else [data["values"][code] for code in data["codes"]]


@given(st.lists(st.dictionaries(st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True), values, max_size=4), max_size=3))
@settings(max_examples=40)
def test_folded_configs_are_the_files_letter_by_letter(all_values):
    """Keys stand in one order in all, as those of a recipe do."""
    order = sorted({key for values in all_values for key in values})
    texts = [yaml.safe_dump({key: v[key] for key in order if key in v}, sort_keys=False) for v in all_values if v]
    folded = configs.fold(texts)
    place = {part["texts"][0].partition(":")[0]: part for part in folded}
    for number, text in enumerate(texts):
        codes = {key: (place[key]["codes"] + [-1] * len(texts))[number] for key in order if key in place}
        assert "".join(place[key]["texts"][code] for key, code in codes.items() if code >= 0) == text


@pytest.mark.parametrize(
    "values",
    [
        {"method": "ssb"},
        {"method": "full", "task": "rte", "learning_rate": 2e-5},
        {"method": {"name": "lora", "r": 4, "alpha": 1e-5}, "mpc": "o", "mpc_weight": 1e-7, "seed": 3},
        {"method": "ssb|lora", "target_modules": ["query", "it's"], "trainer": {"optim": "sgd"}},
        {"task": "classification", "columns": ["a b"], "labels": ["yes", "no"], "data": "$HOME/x; ls"},
    ],
    ids=lambda values: str(values.get("method", values.get("task"))),
)
def test_the_command_of_a_run_makes_its_recipe_again(values):
    given = make(values).resolved()
    words = [word for part in configs.fold([given.dump()]) for word in part["words"] if word]
    assert make(override({}, shlex.split(" ".join(words)))).resolved().digest() == given.digest()


points = st.lists(st.floats(-1e3, 1e3), max_size=200).map(lambda v: [(10 * i, x) for i, x in enumerate(v, 1)])


@given(points, st.integers(1, 30))
def test_thinned_curves_end_where_they_ended_and_keep_their_mean(points, kept):
    thinned = curves.thin(points, kept)
    assert len(thinned) == min(len(points), kept)
    assert not points or thinned[-1][0] == points[-1][0]
    starts = [0, *(step // 10 for step, _ in thinned)]
    lengths = [b - a for a, b in pairwise(starts)]
    whole = sum(value * length for (_, value), length in zip(thinned, lengths, strict=True))
    assert whole == pytest.approx(sum(value for _, value in points), abs=1e-6)


def test_lines_cut_off_and_losses_that_are_no_number_do_not_stop_a_curve(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": NaN}\n{"step": 2, "eval_f1": 0.25}\n{"step": 3, "lo')
    read = curves.read(path, "f1")
    assert (read["loss"][0], read["score"]) == ((1, 0.5), [(2, 0.25)])
    assert "null" in to_json(curves.fold([(path, "f1")]))
    assert curves.read(tmp_path / "missing", "f1") == {"loss": [], "score": []}


@given(values)
def test_what_is_put_on_the_page_is_json_whatever_it_holds(value):
    assert json.loads(to_json(value)) == json.loads(
        json.dumps(value).replace("Infinity", "null").replace("-null", "null")
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return studies.write(tmp_path_factory.mktemp("study"), 60, **SMALL)


@pytest.fixture(scope="module")
def page(folder):
    return Source(folder).build()


def test_every_run_is_there_with_its_numbers_config_and_curves(folder, page):
    parts = Parts(page)
    runs = {name: column(data) for name, data in parts.data["runs"].items()}
    assert sorted(runs["run"]) == sorted(gather(folder)["run"])
    pieces, curve = parts.details["configs"], parts.details["curves"]
    for i, name in enumerate(runs["run"]):
        result = RunFolder(folder / name).result()
        assert runs["score"][i] == pytest.approx(result.score, rel=1e-4)
        assert (runs["task"][i], runs["seed"][i]) == (result.task, result.seed)
        text = "".join(part["texts"][part["codes"][i]] for part in pieces)
        assert text == (folder / name / "config.yaml").read_text()
        steps, scores = curve["score"][i]
        assert curve["steps"][steps][-1] == 100
        assert scores[-1] == pytest.approx(result.score, rel=1e-2)


def test_cells_hold_the_means_of_their_runs(folder, page):
    cells = {name: column(data) for name, data in Parts(page).data["cells"].items()}
    runs = gather(folder)
    found = {
        (task, label): mean for task, label, mean in zip(cells["task"], cells["label"], cells["mean"], strict=True)
    }
    for (task, method, r), own in runs.groupby(["task", "method", "r"], dropna=False):
        label = method if pd.isna(r) else f"{method} r={int(r)}"
        assert found[task, label] == pytest.approx(own["score"].mean(), rel=1e-4)
    over = [found[task, "ssb"] for task in ("cola", "rte")]
    assert found["", "ssb"] == pytest.approx(sum(over) / 2, rel=1e-4)


def test_the_page_asks_nothing_of_a_network(page):
    parts = Parts(page)
    assert all(target.startswith(("data:", "#")) for target in parts.loads)
    assert not re.search(r"@import|url\(", page.partition("</style>")[0])
    assert "default-src 'none'" in page
    assert "connect-src 'none'" in page


def test_names_that_are_html_stay_text(tmp_path):
    hostile = "</script><img src=x onerror=alert(1)>"
    studies.write(tmp_path, 4, tasks=("rte",), models=("roberta-base",), seeds=2)
    for path in tmp_path.rglob("result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"task": hostile, "model": hostile}))
    page = Source(tmp_path, title=hostile).build()
    assert "img" not in Parts(page).tags
    assert Parts(page).data["title"] == hostile


def test_a_table_of_results_a_title_and_a_floor(folder, tmp_path):
    gather(folder).to_parquet(tmp_path / "results.parquet")
    line = {"time_ratio": 1.1, "time_low": 1.0, "time_high": 1.2, "source": "ours"}
    lines = [{"name": "ssb", **line}, {"name": "lora", **line, "source": "peft"}]
    (tmp_path / "floor.json").write_text(json.dumps({"device": "cpu", "contenders": lines}))
    words = [tmp_path / "results.parquet", "-o", tmp_path / "out.html", "--title", "A & B"]
    code, out, err = subspace("report", *words, "--floor", tmp_path / "floor.json")
    assert code == 0, err
    assert "out.html" in out
    page = (tmp_path / "out.html").read_text()
    assert "<title>A &amp; B</title>" in page
    assert [x["name"] for x in Parts(page).data["floor"]["lines"]] == ["ssb"]
    assert Parts(page).details["curves"]["loss"] == [None] * 60


def test_a_single_run_has_a_report(tmp_path):
    studies.write(tmp_path, 1, **SMALL)
    (run,) = [path.parent for path in tmp_path.rglob("result.json")]
    assert Parts(Source(run).build()).data["runs"]["run"] == ["."]


def test_what_was_forgotten_comes_first(tmp_path):
    """Two methods and the base on two tasks: what they kept is on the page run by run, and who forgets in words."""
    kept = {"ssb": -0.1, "ssl": 0.1, "none": 0.0}
    some = list(studies.runs(60, tasks=("cola", "rte"), models=("roberta-base",), seeds=3))
    for one in some[:12] + some[18:24]:  # two contenders, and one more as the base
        studies.put(tmp_path, one)
    runs = gather(tmp_path)
    labels = dict(zip(runs["method"].unique(), kept, strict=False))
    runs = runs.assign(method=runs["method"].map(labels), label=runs["label"].map(labels))
    runs["kept_some_texts"] = [kept[m] + 0.01 * seed for m, seed in zip(runs["method"], runs["seed"], strict=True)]
    runs["score"] = runs["score"] + 0.3 * (runs["method"] == "ssb") - 0.3 * (runs["method"] == "none")
    runs.to_parquet(tmp_path / "results.parquet")
    data = Parts(Source(tmp_path / "results.parquet").build()).data
    assert data["forgetting"]["names"] == ["some_texts"]
    rows = {name: column(values) for name, values in data["forgetting"]["rows"].items()}
    fates = dict(zip(rows["label"], zip(rows["target"], rows["retention"], strict=True), strict=True))
    assert fates["ssb"] == ("gains", "forgets")
    assert fates["ssl"][1] == "improves"
    assert len(column(data["runs"]["kept_some_texts"])) == len(runs)
    said = next(sentence for sentence in data["words"] if sentence.startswith("Beside the base, some texts"))
    assert "1 forgets (ssb); 1 improves (ssl)" in said


def test_studies_without_retention_say_nothing_of_it(page):
    assert Parts(page).data["forgetting"] == {"names": [], "rows": {"model": [], "label": [], "category": []}}


def test_a_run_that_is_looked_into_brings_its_pictures(tmp_path):
    run(make(recipe(tmp_path, epochs=1)))
    pictures = Parts(Source(tmp_path / "run").build(analyzed=1)).data["pictures"]
    assert len(pictures) == 3
    assert all(p["src"].startswith("data:image/png;base64,") and "stable rank" in p["alt"] for p in pictures)


def test_runs_that_failed_or_go_on_are_told(tmp_path):
    studies.write(tmp_path, 3, **SMALL)
    for name, error in {"runs/bad": "ValueError: <b>no</b>", "runs/open": None}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("model: minilm\n")
        if error:
            (tmp_path / name / "error.txt").write_text(error)
    data = Parts(Source(tmp_path).build()).data
    assert data["failed"] == [{"run": "runs/bad", "error": "ValueError: <b>no</b>"}]
    assert any(sentence.startswith("1 run not finished") for sentence in data["words"])


def test_a_task_that_was_not_learned_is_told(tmp_path):
    studies.write(tmp_path, 4, tasks=("rte",), models=("roberta-base",), seeds=2)
    runs = gather(tmp_path)
    for method in ("full", "head"):
        same = runs.iloc[:2].assign(method=method, label=method, r=pd.NA, score=[0.5, 0.52], seed=[0, 1])
        runs = pd.concat([runs[runs["method"] != method], same])
    runs.to_parquet(tmp_path / "results.parquet")
    words = Parts(Source(tmp_path / "results.parquet").build()).data["words"]
    assert any("linear probe" in sentence and "rte with roberta-base" in sentence for sentence in words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere"),
        (["empty"], "no finished run"),
        (["notes.txt"], "expected a folder of runs"),
        (["few.csv"], "lacks"),
        (["study", "--floor", "notes.txt"], "cannot read the floor"),
        (["study", "--floor", "other.json"], "lacks"),
        (["study", "-o", "nowhere/report.html"], "no folder"),
        (["nowhere", "--serve"], "nothing to watch|there is no"),
    ],
    ids=str,
)
def test_bad_input_ends_in_a_sentence_and_leaves_no_page(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    studies.write(tmp_path / "study", 2, **SMALL)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "few.csv").write_text("run,score\na,1\n")
    (tmp_path / "other.json").write_text("{}")
    code, _, err = subspace("report", *words)
    assert code == 2
    assert re.search(said, err)
    assert not list(tmp_path.glob("**/*report.html*"))


@contextmanager
def served(folder):
    with server(Source(folder), 0) as running:
        assert running.server_address[0] == "127.0.0.1"  # nobody else can ask
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}/"
        finally:
            running.shutdown()
            thread.join()


def get(address, **headers):
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as answer:
        return answer.read().decode()


def test_a_served_report_follows_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("subspace_tuning.report.serve.LOOKED_EVERY", 0.0)
    monkeypatch.setattr("subspace_tuning.report.serve.SHARE", 1e9)
    first, second, third = studies.runs(3, **SMALL)
    with served(tmp_path) as address:
        assert "no finished run" in get(address)
        studies.put(tmp_path, first)
        studies.put(tmp_path, second)
        version = get(address + "version")
        assert f'content="{version}"' in get(address)
        assert version == get(address + "version")
        studies.put(tmp_path, third)
        assert get(address + "version") != version
        assert len(Parts(get(address)).data["runs"]["run"]) == 3


@pytest.mark.parametrize("how", broken.ALL)
def test_a_broken_run_leaves_the_page_of_the_others(tmp_path, monkeypatch, how):
    monkeypatch.setattr("subspace_tuning.report.serve.LOOKED_EVERY", 0.0)
    for made in studies.runs(3, **SMALL):
        studies.put(tmp_path, made)
    where = next(path.parent for path in tmp_path.rglob("result.json"))
    name = str(where.relative_to(tmp_path))
    broken.ALL[how](where)
    page = Parts(Source(tmp_path).build()).data
    assert ([line["run"] for line in page["failed"]] == [name]) == (how in broken.RESULT)
    with served(tmp_path) as address:
        assert "Waiting" not in get(address)
        assert get(address + "version")
    code, out, _ = subspace("report", tmp_path, "-o", tmp_path / "page.html")
    assert code == 0
    assert "MB" in out


def test_what_nobody_foresaw_keeps_the_page_waiting(tmp_path, monkeypatch):
    def surprise(self, *args, **kwargs):
        raise ZeroDivisionError("of <all> things")

    monkeypatch.setattr(Source, "build", surprise)
    with served(tmp_path) as address:
        assert "ZeroDivisionError: of &lt;all&gt; things" in get(address)


def test_the_server_answers_this_machine_by_its_name_and_nothing_but_the_report(tmp_path):
    studies.write(tmp_path, 1, **SMALL)
    with served(tmp_path) as address:
        for path, headers in {"../config.yaml": {}, "version": {"Host": "elsewhere.example:80"}}.items():
            with pytest.raises(urllib.error.HTTPError):
                get(address + path, **headers)


def test_two_servers_do_not_share_a_port(tmp_path):
    with server(Source(tmp_path), 0) as running, pytest.raises(BadInput, match="port"):
        server(Source(tmp_path), running.server_address[1])
