# ruff: noqa: E501 (names are as long as they are)
"""Names and texts that a shell, a query, a pattern or a tokenizer would take for more than a name
or a text.
"""

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dataset_builder.artifacts import write_json
from dataset_builder.card import build_command, card
from dataset_builder.errors import InputError
from dataset_builder.export import read_export
from dataset_builder.manifest import Pointer, find_variant
from dataset_builder.recipe import load_recipe
from dataset_builder.template import TEMPLATES, encode_prompts, token_id
from dataset_builder.threads import make_tables
from dataset_builder.variant import plan_variant
from evals.suite import load_suite
from finetune.preset import load_preset
from reports.study import load_study
from tests.builders import prompt, reply, write
from tests.campaign import Attempt, Campaign, Outcome
from tests.hostile import MARKUP
from tests.hostile_terminal import PAYLOADS as FOR_TERMINALS
from tests.tiny import tiny_tokenizer, write_variant

# Of files. What they would match, quote or lead to stands beside them, and is another file.
NAMES = (
    *("*", "?", "[a-z]", "[!x]", "{a,b}", "**", "a*", "*a", "?b", "[]", "[[]", "{", "!(x)", "~", "~root"),
    *("'", '"', "''", '""', "`", "';--", "\"; DROP TABLE messages; --", "x' OR '1'='1", "a'b\"c`d"),
    *("')", "'); COPY messages TO 'out", "read_json('a')", "$1", "?1", ":name", "@x", "%s", "%n%n", "{0}"),
    *("$(touch ran)", "`touch ran`", ";touch ran", "|touch ran", "&touch ran", "$HOME", "${PATH}", ">ran"),
    *("-", "--", "-rf", "--source", "--help", "-x=y", "#", "!", "!!", "\\", "\\\\", "a\\b", "C:\\x", "\\x00"),
    *(" ", "  a", "a ", "a b", "\t", "a\nb", "\n", "\r", "a\r\nb", "\x0b", "\x1b[31m", "\x1b]0;t\x07", "\x7f"),
    *("...", "..a", "a..", "%2e%2e%2f", "..%2f..%2fetc", "..\\..\\etc", "file:", "http:", "s3:", "hf:"),
    *("\u202etxt.exe", "\u2066x\u2069", "\u200b", "\ufeff", "\u00e9", "e\u0301", "\u212b", "\uff0e\uff0e\uff0f"),
    *("\u2028", "\u0130", "\u00df", "漢字", "🙂", "🙂\u200d🙂", "con", "nul", "aux", "x" * 200, "<b>", "&lt;"),
    *("[link=x]y", "[INST]", "a.parquet", "a.gz", "PAR1", "__proto__", "None", "null", "0", "1e9"),
)  # fmt: skip
# Of things that have names: what would lead elsewhere, at what stands there.
ELSEWHERE = (
    *("..", "../..", "../x", "../../x", "x/..", "x/../..", "./x", "x/", "x/.", "../variants/x", "a/../x", "/../x"),
    *("../outside/x", "../../outside/x", "../../outside", "variants/../../outside/x", "/etc/passwd", "//etc/passwd"),
    *("../../etc/passwd", "..\\x", "..\\..\\outside\\x", "%2e%2e/x", "..%2fx", "x\0", "\0", "../x\0", ".", "", " "),
    *("~", "~/x", "~root/x", "*", "x*", "?", "[x]", "{x,y}", "**", "../*", "../out*/x", "$HOME/x", "`pwd`", "$(pwd)/x"),
    *("../x.toml", "../../outside/x.toml/", "file:///etc/passwd", "con", "x:y", "-", "--", "-x", "'x'", '"x"', "x;y"),
)  # fmt: skip
DECOYS = ("a", "b", "ab", "x", "etc", "ran", "-", "messages")


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """Nothing: names first, links second, texts third, names that lead elsewhere last."""
    yield lambda seed, folder: (names, links, texts, elsewhere)[seed](folder)


def names(folder: Path) -> Outcome:
    """Each file alone is read, and a card names it so that it can be typed again."""
    for name in DECOYS:
        write(folder / f"{name}.jsonl", [prompt(f"decoy {name}"), reply("d", f"decoy {name}")])
    for number, name in enumerate(NAMES):
        here = folder / f"{number}"
        here.mkdir()
        path = write(folder / f"{name}.jsonl", [prompt("own"), reply("r", "own", rank=0)])
        export = read_export(path)
        tables = make_tables([export], 0.0)
        assert sorted(tables.messages["message_id"].to_pylist()) == ["own", "r"], name
        made = plan_variant("full", load_recipe("full"), tables)
        assert path.name in shlex.split(build_command(made.manifest)), name
        assert card(made.manifest)
        path.unlink()
    assert not [*folder.rglob("ran")]
    return Outcome(tried=len(NAMES))


def links(folder: Path) -> Outcome:
    """A recipe or a source by a link or a roundabout way is what it leads to, whatever it is
    called.
    """
    (folder / "deep" / "er").mkdir(parents=True)
    source = write(folder / "deep" / "x.jsonl", [prompt("own"), reply("r", "own", rank=0)])
    recipe = folder / "deep" / "recipe.toml"
    recipe.write_text('title = "a test"\n')
    tried = 0
    for name in NAMES:
        for link in (folder / f"{name}.jsonl", folder / "deep" / "er" / f"{name}.jsonl"):
            link.symlink_to(source)
            around = link.parent / ".." / link.parent.name / link.name
            for path in (link, around):
                assert read_export(path).met.num_rows == 2, name
                tried += 1
            link.unlink()
        linked = folder / f"{name}.toml"
        linked.symlink_to(recipe)
        assert load_recipe(str(linked)).title == "a test"
        linked.unlink()
        tried += 1
    return Outcome(tried=tried)


def texts(folder: Path) -> Outcome:
    """No text becomes a control token, under any template that the tokenizer can write."""
    tokenizer = tiny_tokenizer()
    control = {token_id(tokenizer, each) for each in tokenizer.all_special_tokens}
    said = [*MARKUP, *FOR_TERMINALS]
    said += [f"{text}{each}{text}" for each in tokenizer.all_special_tokens for text in said]
    said = [
        text for text in said if text.isascii() or text.encode("utf-8", "ignore").decode() == text
    ]
    template = TEMPLATES["chatml"]
    plain = encode_prompts(template, tokenizer, [[{"role": "user", "content": "x"}]])
    (wanted,) = ([each for each in ids if each in control] for ids in plain)
    conversations = [[{"role": "user", "content": text}] for text in said]
    for text, ids in zip(said, encode_prompts(template, tokenizer, conversations), strict=True):
        assert [each for each in ids if each in control] == wanted, text
    return Outcome(tried=len(said))


def elsewhere(folder: Path) -> Outcome:
    """No name of a recipe, preset, suite, study or variant leads out of where such
    things are, nor does a pointer to a build; what stands outside could be loaded.
    """
    artifacts = folder / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(artifacts))
        work = folder / "at" / "deep" / "work"  # from where no name is a path to what is outside
        work.mkdir(parents=True)
        patch.chdir(work)
        built = write_variant()
        for outside in (folder / "outside" / "x", artifacts / "x"):
            shutil.copytree(built, outside)
            outside.with_name("x.toml").write_text('title = "a test"\n')
        pointer = artifacts / "variants" / "x.json"
        before = set(folder.rglob("*"))
        tried = 0
        for name in ELSEWHERE:
            for find in (load_recipe, load_preset, load_suite, load_study, find_variant):
                with pytest.raises(InputError):
                    find(name)
                tried += 1
            if Path(name).name != name:
                write_json(Pointer(build=name), pointer)
                with pytest.raises(InputError):
                    find_variant("x")
                pointer.unlink()
                tried += 1
        assert set(folder.rglob("*")) == before
    return Outcome(tried=tried)


CAMPAIGN = Campaign(
    code="S2",
    promise="a name is a name and a text a text: no pattern, query, command or control token",
    counted="names, links and texts",
    aim=100,
    prepare=prepare,
    attempts=4,
)
