"""Packages and manifests from others do no harm."""

import io
import json
import tarfile

import lz4.frame
import pytest
import tiny_llm
import web as web_server

from pyterrier_inpars import (
    QueryGenerator,
    StaticPrompt,
    SyntheticQueries,
)

pytestmark = pytest.mark.usefixtures("one_thread")


PROMPT = StaticPrompt("Document: {document}\nQuery:")
DOCUMENTS = [{"docno": f"d{i}", "text": f"the noise of the receiver {i}"} for i in range(4)]
ON_CPU = {"device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return tiny_llm.save(tmp_path_factory.mktemp("llm"), "llama")


@pytest.fixture
def web(tmp_path, monkeypatch):
    with web_server.offline_but_for_this_machine(monkeypatch, tmp_path / "home") as web:
        yield web


def stored(path, llm):
    generator = QueryGenerator(llm, prompt=PROMPT, max_new_tokens=3, **ON_CPU)
    return (generator >> SyntheticQueries(path, shard_size=2)).index(iter(DOCUMENTS))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tarfile's, in PyTerrier
def test_a_package_writes_nothing_outside_its_folder(web, tmp_path, llm):
    """Its members have paths with ``..``, absolute paths, are links, or go through links."""
    queries = stored(tmp_path / "queries", llm)
    goal = tmp_path / "home" / "goal"
    data = io.BytesIO()
    with lz4.frame.open(data, "wb") as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for file in sorted(queries.path.iterdir()):
            tar.add(file, file.name)

        def add(name, kind=tarfile.REGTYPE, to=""):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, to, 4 * (kind == tarfile.REGTYPE)
            tar.addfile(member, io.BytesIO(b"harm"))

        for number in range(1, 6):
            add("../" * number + "goal")
        add(str(goal))
        add(f"a/../../{goal.name}")
        add("link", tarfile.SYMTYPE, str(goal.parent))
        add("link/goal")
        add("up", tarfile.SYMTYPE, "..")
        add("up/goal")
        add("hard", tarfile.LNKTYPE, str(tmp_path / "queries" / "pt_meta.json"))
        add("device", tarfile.FIFOTYPE)
    before = {file for file in tmp_path.rglob("*") if "artifacts" not in file.parts}
    url = web.serve("/queries.tar.lz4", data.getvalue())
    loaded = SyntheticQueries.from_url(url)
    assert loaded.get_results().equals(queries.get_results())
    inside = loaded.path.resolve()
    assert inside.is_relative_to(tmp_path / "home" / "artifacts")
    after = {file for file in tmp_path.rglob("*") if inside not in file.parents}
    new = {file for file in after - before if not file.name.startswith(inside.name)}
    assert new <= {inside.parent, inside.parent.parent}
    assert not any(file.is_symlink() for file in inside.rglob("*"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_package_with_another_hash_is_refused(web, tmp_path, llm):
    queries = stored(tmp_path / "queries", llm)
    queries.build_package(verbose=False)
    for suffix in (".tar.lz4", ".tar.lz4.json"):
        web.serve(f"/q{suffix}", (tmp_path / f"queries{suffix}").read_bytes())
    changed = bytearray((tmp_path / "queries.tar.lz4").read_bytes())
    changed[len(changed) // 2] ^= 1
    web.serve("/q.tar.lz4", bytes(changed))
    with pytest.raises(Exception):  # noqa: B017 (of the hash, or of what unpacks)
        SyntheticQueries.from_url(f"{web.home}/q.tar.lz4")
    assert not [f for f in (tmp_path / "home" / "artifacts").iterdir() if f.is_dir()]


@pytest.mark.parametrize(
    "climbs", ["../outside.jsonl.gz", "{}/outside.jsonl.gz", "x/../../outside.jsonl.gz"]
)
def test_a_manifest_can_only_name_files_of_its_folder(tmp_path, llm, climbs):
    """An artifact from others cannot make us read another file as a shard."""
    queries = stored(tmp_path / "queries", llm)
    outside = tmp_path / "outside.jsonl.gz"
    (queries.path / "x").mkdir()
    file = queries.path / "pt_meta.json"
    manifest = json.loads(file.read_bytes())
    entry = manifest["shards"][0]
    outside.write_bytes((queries.path / entry["file"]).read_bytes())  # as its hash says
    entry["file"] = climbs.format(tmp_path)
    file.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="manifest .*pt_meta.json is damaged"):
        SyntheticQueries(queries.path).get_results()
