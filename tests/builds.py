"""Builds of the sample forest to attack: started in processes of their own, and looked over."""

import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import which

from dataset_builder.digest import rows_digest
from dataset_builder.manifest import Manifest
from dataset_builder.tables import EXAMPLES, read_table
from tests.warm import DATASET_BUILDER, ROOT, Started, Warm

SAMPLE = ROOT / "dataset_builder" / "sample" / "forest.trees.jsonl"
RECIPES = ["capped", "control_words", "pairs_flipped"]

# Several builds in one process, each in its own time zone and locale, with the sources and recipes
# in either order; with so many threads of Polars, DuckDB, Arrow and everything by OpenMP.
MANY = """
import json, locale, os, sys, time
threads, places = int(sys.argv[1]), json.loads(sys.argv[2])
import duckdb, pyarrow
connect = duckdb.connect
met = []

def connected(*arguments):
    connection = connect(*arguments, config={"threads": threads})
    met.append(connection.sql("select current_setting('threads')").fetchall()[0][0])
    return connection

duckdb.connect = connected
pyarrow.set_cpu_count(threads)
pyarrow.set_io_thread_count(threads)
import polars
from dataset_builder.__main__ import app
from dataset_builder.command_line import run
for number, artifacts in places:
    os.environ["TZ"] = ("UTC", "Asia/Kathmandu", "America/St_Johns")[number // 9 % 3]
    time.tzset()
    names = os.environ["LOCALES"].split()
    locale.setlocale(locale.LC_ALL, names[number // 3 % len(names)])
    os.environ["ARTIFACTS"] = artifacts
    sources, recipes = (json.loads(each)[:: (-1) ** number] for each in sys.argv[3:5])
    try:
        run(app, ["build", *recipes, "--held-out", "0.3", "--source", *sources])
    except SystemExit as end:
        assert not end.code
assert set(met) == {threads}
assert polars.thread_pool_size() == threads
"""


# Languages whose letters, numbers and order are not English ones, and encodings that are not UTF-8.
LOCALES = ("tr_TR.UTF-8", "ar_EG.UTF-8", "de_DE.ISO-8859-1", "ja_JP.EUC-JP")


def locales(folder: Path, wanted: Sequence[str] = LOCALES) -> dict[str, str]:
    """The environment in which `wanted` can be chosen, as many as the C library's own program could
    make in `folder`; and C and C.UTF-8, which every machine has. LOCALES names them all.
    """
    names = ["C", "C.UTF-8"]
    for name in wanted if which("localedef") else ():
        language, _, encoding = name.partition(".")
        making = ["localedef", "-i", language, "-f", encoding, str(folder / name)]
        subprocess.run(making, capture_output=True, check=False)
        if (folder / name).is_dir():
            names.append(name)
    return {"LOCALES": " ".join(names), "LOCPATH": str(folder)}


def foreign_recipe(folder: Path) -> str:
    """A recipe whose title another encoding would write as other bytes, or not at all."""
    path = folder / "foreign.toml"
    path.write_text('title = "Größe ñ, 日本語"\n', encoding="utf-8")
    return str(path)


def build(process: Warm, artifacts: Path, source: Path, code: str = DATASET_BUILDER) -> Started:
    """A build of the variant `full`, started and not waited for."""
    arguments = ("build", "full", "--held-out", "0.3", "--source", source)
    return process.start(code, *arguments, ARTIFACTS=str(artifacts))


def halves(folder: Path, trees: int = 74) -> list[Path]:
    """So much of the sample forest as two files that share some trees."""
    lines = SAMPLE.read_text(encoding="utf-8").splitlines(keepends=True)[:trees]
    files = [folder / "one.jsonl", folder / "two.jsonl"]
    parts = lines[: trees * 3 // 5], lines[trees // 2 :]
    for file, part in zip(files, parts, strict=True):
        file.write_text("".join(part), encoding="utf-8")
    return files


def files_of(artifacts: Path) -> dict[str, str]:
    return {
        str(path.relative_to(artifacts)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(artifacts.rglob("*"))
        if path.is_file()
    }


def assert_whole(directory: Path, manifest: Manifest) -> None:
    for split, digest in manifest.notes["rows"].items():
        assert rows_digest(read_table(directory / f"{split}.parquet", EXAMPLES)) == digest


def assert_same_files(found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Both are of `files_of`; says which files are not the same."""
    differing = {name for name, _ in found.items() ^ wanted.items()}
    assert not differing, sorted(differing)
