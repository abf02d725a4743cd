"""Artefacts of strangers that hold code, each in a form that some library would run.

Where one of them runs, it makes the file `ran`.
"""

import io
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.errors import InputError
from dataset_builder.export import read_export
from dataset_builder.prompt_files import read_prompt_lines
from dataset_builder.recipe import load_recipe
from evals.answer_files import read_answer_file
from evals.suite import load_suite
from finetune.preset import load_preset
from tests.tiny import tiny_llama

# What becomes of an artefact: it is refused, or what it holds beside code is read.
REFUSED, READ = "refused", "read"


class Code:
    """What a pickle of it does when it is read."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.ran,)


def module(ran: Path, *classes: str) -> str:
    """A module's source that leaves the file `ran` when it is imported."""
    defined = "".join(f"\n\nclass {name}:\n    pass\n" for name in classes)
    return f"from pathlib import Path\n\nPath({str(ran)!r}).touch(){defined}"


def escapes(ran: Path) -> list[str]:
    """Chat templates that would leave Jinja's sandbox."""
    command = f"touch {ran}"
    return [
        f"{{{{ cycler.__init__.__globals__.os.system('{command}') }}}}",
        f"{{{{ self.__init__.__globals__.__builtins__.__import__('os').system('{command}') }}}}",
        f"{{{{ lipsum.__globals__['os'].popen('{command}').read() }}}}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        f"{{{{ (messages|attr('__class__')).__base__.__subclasses__()[0]('{command}') }}}}",
        f"{{{{ '%s'|format(raise_exception.__globals__.__builtins__.open('{ran}', 'w')) }}}}",
        f"{{% import '{ran}' as x %}}{{% include '/etc/passwd' %}}",
    ]


_BASE = 'title = "x"\nlength = 9\n[training]\nexamples = 2\nbatch = 2\nmicro_batch = 2\n[base]\n'

# Settings that would let code run, were they keys.
SETTINGS = (
    _BASE + 'model = "a/b"\ntrust_remote_code = true\n',
    _BASE + 'model = "a/b"\nauto_map = { AutoModel = "evil.Model" }\n',
    _BASE + 'model = "a/b"\ntorch_load = { weights_only = false }\n',
    _BASE + 'model = "a/b"\nuse_safetensors = false\n',
    'title = "x"\ntrust_remote_code = true\n',
    'title = "x"\nscorers = []\ntrust_remote_code = true\n',
    'title = "x"\nscorers = ["os.system"]\n',
    'title = "x"\n[keep]\nexpression = "__import__(\'os\')"\n',
    'title = "x"\n[shape]\nwordings = ["{0.__class__}"]\n',
)


def changed(path: Path, **fields: Any) -> None:
    """Sets `fields` of the JSON at `path`."""
    stored = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(stored | fields))


# ---------------------------------------------------------------------------------- base models


def _pickled_weights(model: Path, ran: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Code(ran)))


def _pickle_beside(model: Path, ran: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.pkl"):
        (model / name).write_bytes(pickle.dumps(Code(ran)))


def _renamed_pickle(model: Path, ran: Path) -> None:
    (model / "model.safetensors").write_bytes(pickle.dumps(Code(ran)))


def _index_elsewhere(model: Path, ran: Path) -> None:
    """An index of shards that names a pickle."""
    (model / "model.safetensors").rename(model / "other.safetensors")
    (model / "evil.bin").write_bytes(pickle.dumps(Code(ran)))
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "evil.bin"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def _endless_header(model: Path, ran: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\xff" * 7 + b"\x7f{}")


def _code_of_its_own(model: Path, ran: Path) -> None:
    """A kind of model that transformers does not know, whose code comes with it."""
    names = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    changed(model / "config.json", model_type="evil", auto_map=names, architectures=["Model"])
    (model / "evil.py").write_text(module(ran, "Config", "Model"))


def _code_for_a_known_kind(model: Path, ran: Path) -> None:
    names = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    changed(model / "config.json", auto_map=names, trust_remote_code=True)
    (model / "evil.py").write_text(module(ran, "Config", "Model"))


def _code_of_a_tokenizer(model: Path, ran: Path) -> None:
    names = {"AutoTokenizer": ["evil.Tokenizer", None]}
    changed(model / "tokenizer_config.json", auto_map=names, tokenizer_class="Tokenizer")
    changed(model / "tokenizer_config.json", trust_remote_code=True)
    (model / "evil.py").write_text(module(ran, "Tokenizer"))


def _code_elsewhere(model: Path, ran: Path) -> None:
    """Code in another repository, which transformers would fetch."""
    names = {"AutoConfig": "a/b--evil.Config", "AutoModelForCausalLM": "a/b--evil.Model"}
    changed(model / "config.json", model_type="evil", auto_map=names, architectures=["Model"])


def _code_that_generates(model: Path, ran: Path) -> None:
    (model / "custom_generate").mkdir()
    (model / "custom_generate" / "generate.py").write_text(module(ran))
    changed(model / "generation_config.json", trust_remote_code=True)


def _deep_configuration(model: Path, ran: Path) -> None:
    (model / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)


MODELS: dict[Callable[[Path, Path], None], str] = {
    _pickled_weights: REFUSED,
    _pickle_beside: READ,
    _renamed_pickle: REFUSED,
    _index_elsewhere: REFUSED,
    _endless_header: REFUSED,
    _code_of_its_own: REFUSED,
    _code_for_a_known_kind: READ,
    _code_of_a_tokenizer: REFUSED,
    _code_elsewhere: REFUSED,
    _code_that_generates: READ,
    _deep_configuration: REFUSED,
}


def load_model(model: Path) -> None:
    """Loads a directory as training and answering do. Raises InputError where it is refused."""
    import torch

    from dataset_builder.template import find_template
    from finetune.base import context_of, ready_base
    from finetune.chat import own_template
    from finetune.model import load_base, load_tokenizer
    from finetune.preset import Base

    base = Base(model=str(model), quantization="none", precision="fp32")
    files = ready_base(base, lambda line: None)
    context_of(files)
    own_template(load_tokenizer(files, find_template("chatml")), files.model)
    load_base(files, base, torch.device("cpu"))


# ------------------------------------------------------------------------------------- adapters


def _pickled_adapter(adapter: Path, ran: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Code(ran)))


def _renamed_adapter(adapter: Path, ran: Path) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(pickle.dumps(Code(ran)))


def _adapter_beside_a_pickle(adapter: Path, ran: Path) -> None:
    """PEFT would import the library that `auto_mapping` names."""
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Code(ran)))
    (adapter / "evil.py").write_text(module(ran, "Model"))
    names = {"parent_library": "evil", "base_model_class": "Model"}
    changed(adapter / "adapter_config.json", auto_mapping=names, base_model_name_or_path="a/evil")


ADAPTERS: dict[Callable[[Path, Path], None], str] = {
    _pickled_adapter: REFUSED,
    _renamed_adapter: REFUSED,
    _adapter_beside_a_pickle: READ,
}


def write_adapter(model: Path, out: Path) -> None:
    """An adapter of the model at `out`."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(str(model))
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(
        out, save_embedding_layers=False
    )


def load_adapter(model: Path, adapter: Path) -> None:
    """Merges an adapter as answering does. Raises InputError where it is refused."""
    import torch

    from finetune.base import ready_base
    from finetune.model import load_merged
    from finetune.preset import Base

    base = Base(model=str(model), quantization="none", precision="fp32")
    load_merged(ready_base(base), base, adapter, torch.device("cpu"))


# ---------------------------------------------------------------------------------------- files


def _parquet_of_a_class(ran: Path) -> bytes:
    """Parquet whose column is of a type that old releases of Arrow unpickled (CVE-2023-47248)."""
    said = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Code(ran)),
    }
    schema = pa.schema([pa.field("message_id", pa.string(), metadata=said)])
    out = pa.BufferOutputStream()
    pq.write_table(pa.table({"message_id": ["a"]}, schema=schema), out)
    return out.getvalue().to_pybytes()


def _numpy_of_objects(ran: Path) -> bytes:
    """An array of objects, as NumPy stores it."""
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + pickle.dumps(Code(ran))


# What stands where an export, a prompt file, answers or settings are wanted.
FILES: dict[str, Callable[[Path], bytes]] = {
    "a pickle": lambda ran: pickle.dumps(Code(ran)),
    "a pickle of text": lambda ran: pickle.dumps(Code(ran), protocol=0),
    "Parquet of a class": _parquet_of_a_class,
    "NumPy's objects": _numpy_of_objects,
    "YAML": lambda ran: f"!!python/object/apply:pathlib.Path.touch [{ran}]\n".encode(),
    "a module": lambda ran: module(ran).encode(),
    "a class's name": lambda ran: (
        json.dumps({"__class__": "pathlib.Path", "py/object": "pathlib.Path", "$ref": str(ran)})
        + "\n"
    ).encode(),
}


def load_file(path: Path) -> None:
    """Reads a file wherever one of strangers is wanted; each refuses it, or reads text in it."""
    readers: tuple[Callable[[Path], object], ...] = (
        read_export,
        read_answer_file,
        read_prompt_lines,
        lambda path: load_recipe(str(path)),
        lambda path: load_preset(str(path)),
        lambda path: load_suite(str(path)),
    )
    for reader in readers:
        with suppress(InputError):
            reader(path)


# --------------------------------------------------------------------------------------- attacks


def attacks(folder: Path) -> dict[str, Callable[[Path], str]]:
    """Every attack by its name: given a new folder, what came of it. Where code ran, `ran` is in
    that folder. What they share is made in `folder`.
    """
    model, adapter = tiny_llama(folder / "model"), folder / "adapter"
    write_adapter(model, adapter)

    def on_model(poison: Callable[[Path, Path], None], out: Path) -> str:
        poisoned = Path(shutil.copytree(model, out / "model"))
        poison(poisoned, out / "ran")
        return _outcome(load_model, poisoned)

    def on_adapter(poison: Callable[[Path, Path], None], out: Path) -> str:
        poisoned = Path(shutil.copytree(adapter, out / "adapter"))
        poison(poisoned, out / "ran")
        return _outcome(load_adapter, model, poisoned)

    def template(number: int, out: Path) -> str:
        poisoned = Path(shutil.copytree(model, out / "model"))
        (poisoned / "chat_template.jinja").write_text(escapes(out / "ran")[number])
        return _outcome(load_model, poisoned)

    def setting(text: str, out: Path) -> str:
        (out / "x.toml").write_text(text)
        for load in (load_recipe, load_preset, load_suite):
            if _outcome(load, str(out / "x.toml")) == READ:
                return READ
        return REFUSED

    def file(content: Callable[[Path], bytes], name: str, out: Path) -> str:
        (out / name).write_bytes(content(out / "ran"))
        return _outcome(load_file, out / name)

    found: dict[str, Callable[[Path], str]] = {}
    for poison in MODELS:
        found[poison.__name__.strip("_")] = partial(on_model, poison)
    for poison in ADAPTERS:
        found[poison.__name__.strip("_")] = partial(on_adapter, poison)
    for number in range(len(escapes(folder))):
        found[f"chat template {number}"] = partial(template, number)
    for number, text in enumerate(SETTINGS):
        found[f"setting {number}"] = partial(setting, text)
    for kind, content in FILES.items():
        for name in ("x.jsonl", "x.toml", "x.csv", "x.parquet"):
            found[f"{kind} as {name}"] = partial(file, content, name)
    return found


def wanted(name: str) -> str:
    """What is to come of the attack `name`."""
    outcomes = {each.__name__.strip("_"): out for each, out in (MODELS | ADAPTERS).items()}
    return outcomes.get(name, READ if " as " in name else REFUSED)


def _outcome(load: Callable[..., object], *arguments: object) -> str:
    """Loads with somebody at the keyboard who says yes to everything."""
    keyboard = sys.stdin
    sys.stdin = io.StringIO("y\n" * 99)
    try:
        load(*arguments)
    except InputError:
        return REFUSED
    finally:
        sys.stdin = keyboard
    return READ


def attack_all(folder: Path) -> int:
    """Makes every attack below `folder`, and says how many; asserts that none ran, and that each
    was refused, or read as text, where it should be.
    """
    (folder / "shared").mkdir()
    found = {}
    for name, attack in attacks(folder / "shared").items():
        out = folder / f"{len(found)}"
        out.mkdir()
        found[name] = attack(out)
        assert not (out / "ran").exists(), name
    assert found == {name: wanted(name) for name in found}
    return len(found)
