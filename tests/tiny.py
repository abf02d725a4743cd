"""A tiny Llama and a tiny Phi of random weights with a real tokenizer, and a small variant.

All made in the test, from nothing: no network, no DATA part, no Polars.
"""

from pathlib import Path

from dataset_builder.artifacts import artifacts_root, write_json
from dataset_builder.digest import rows_digest
from dataset_builder.manifest import Manifest, Pointer, Sources, SplitCount
from dataset_builder.tables import FORMS, HELDOUT, table_of, write_table
from dataset_builder.words import CONCISE_WORDS, WORD_COUNTER, count_words

QUESTIONS = [
    "What colour is the sky on a clear day?",
    "How many legs does a spider have?",
    "Why do leaves fall in autumn?",
    "What is the capital of France?",
    "How do I boil an egg?",
    "Which planet is closest to the sun?",
    "What do bees make?",
    "How long is a marathon?",
]
ANSWERS = [
    "It is blue, because the air scatters blue light more than red.",
    "A spider has eight legs.",
    "The days grow short and cold, so the tree takes back what it can and lets the leaves go.",
    "Paris.",
    "Put it into boiling water for seven minutes, then cool it in cold water.",
    "Mercury is the closest planet to the sun.",
    "Bees make honey and wax.",
    "A marathon is a little more than forty-two kilometres long.",
]
TABLES = "7ab1e5" + "0" * 58


def tiny_tokenizer():
    """A byte-level BPE of 400 ids: any text round-trips; ChatML's and GPT-2's tokens are there."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(QUESTIONS + ANSWERS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    )


def tiny_llama(out: Path, *, vocabulary: int | None = None) -> Path:
    """A Llama with a tied head; its vocabulary is the tokenizer's unless told otherwise."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=vocabulary or len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=2,
    )
    return _saved(LlamaForCausalLM, config, tokenizer, out)


def tiny_phi(out: Path, *, vocabulary: int = 512) -> Path:
    """A Phi, as Phi-2 is: an untied head with a bias, and free ids above the tokenizer's."""
    from transformers import PhiConfig, PhiForCausalLM

    tokenizer = tiny_tokenizer()
    config = PhiConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        partial_rotary_factor=0.5,
        max_position_embeddings=512,
        resid_pdrop=0.1,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
    )
    return _saved(PhiForCausalLM, config, tokenizer, out)


def tiny_preset(
    out: Path,
    model: Path,
    *,
    template: str = "chatml",
    targets: tuple[str, ...] = (),
    top: str = "",
    base: str = "",
    lora: str = "",
    training: str = "",
    previews: str = "",
    dpo: str = "",
    reward: str = "",
    grpo: str = "",
) -> Path:
    """A preset file at `out`; the texts are further lines of TOML for each section.

    A key that a text repeats replaces the one set here.
    """
    phi = template == "instruct"
    names = targets or (
        ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2")
        if phi
        else ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    )
    sections = {
        "": ('title = "tiny"', f'template = "{template}"', "length = 128", top),
        "base": (f'model = "{model}"', 'quantization = "nf4"', 'precision = "bf16"', base),
        "lora": ("r = 4", "alpha = 8", "dropout = 0.1", f"targets = {list(names)!r}", lora),
        "training": (
            "examples = 24",
            "batch = 4",
            "micro_batch = 2",
            "learning_rate = 1e-2",
            "gradient_checkpointing = false",
            "checkpoint_steps = 2",
            "log_steps = 1",
            training,
        ),
        "previews": ("steps = 3", "prompts = 2", "limits = [5]", "tokens = 8", previews),
        **({"dpo": (dpo,)} if dpo else {}),
        **({"reward": (reward,)} if reward else {}),
        **({"grpo": (grpo,)} if grpo else {}),
    }
    lines: list[str] = []
    for section, texts in sections.items():
        keys: dict[str, str] = {}
        for line in "\n".join(texts).splitlines():
            if line.strip():
                keys[line.partition("=")[0].strip()] = line.strip()
        lines += [f"[{section}]"] if section else []
        lines += keys.values()
    out.write_text("\n".join(lines).replace("'", '"') + "\n", encoding="utf-8")
    return out


def example(
    n: int, *, question: str | None = None, answer: str | None = None, limit: int | None = None
) -> dict:
    """The n-th training example."""
    question = question or QUESTIONS[n % len(QUESTIONS)]
    answer = answer or ANSWERS[n % len(ANSWERS)]
    stated = f"{question}\n\nAnswer in at most {limit} words." if limit else question
    return {
        "example_id": f"e{n}",
        "tree_id": f"t{n}",
        "prompt_id": f"p{n}",
        "lang": "en",
        "turns": 1,
        "rank": 0,
        "reply_words": count_words(answer),
        "limit": limit,
        "prompt": [{"role": "user", "content": stated}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def pair(
    n: int, *, chosen: str | None = None, rejected: str | None = None, limit: int | None = None
) -> dict:
    """The n-th preference pair: a short answer to the n-th question over the next one's."""
    made = example(n, answer=chosen, limit=limit)
    better = made["completion"][0]["content"]
    worse = rejected or f"{ANSWERS[(n + 1) % len(ANSWERS)]} {ANSWERS[(n + 2) % len(ANSWERS)]}"
    return {
        **{key: made[key] for key in ("example_id", "tree_id", "prompt_id", "lang", "turns")},
        "pair_id": f"pair{n}",
        "augmentation": "kept" if limit else "plain",
        "limit": limit,
        "prompt": made["prompt"],
        "chosen": [{"role": "assistant", "content": better}],
        "rejected": [{"role": "assistant", "content": worse}],
        "chosen_id": f"c{n}",
        "rejected_id": f"r{n}",
        "chosen_rank": 0,
        "rejected_rank": 1,
        "chosen_words": count_words(better),
        "rejected_words": count_words(worse),
    }


def asked(n: int, *, limit: int | None = 5, question: str | None = None) -> dict:
    """The n-th prompt without an answer, with its limit stated."""
    made = example(n, question=question, limit=limit)
    kept = ("example_id", "tree_id", "prompt_id", "lang", "turns", "rank", "reply_words", "limit")
    return {key: made[key] for key in (*kept, "prompt")} | {"reply_id": f"p{n}-0"}


def write_prompts(
    name: str = "prompts", rows: list[dict] | None = None, validation: list[dict] | None = None
) -> Path:
    """The folder of a variant of prompts (ten by default), its tables beside it."""
    held = [asked(n) for n in range(100, 103)] if validation is None else validation
    return write_variant(name, rows or [asked(n) for n in range(10)], held, form="prompts")


def write_pairs(
    name: str = "pairs", rows: list[dict] | None = None, validation: list[dict] | None = None
) -> Path:
    """The folder of a variant of pairs (ten by default), its tables beside it."""
    held = [pair(n) for n in range(100, 103)] if validation is None else validation
    return write_variant(name, rows or [pair(n) for n in range(10)], held, form="pairs")


def write_variant(
    name: str = "tiny",
    rows: list[dict] | None = None,
    validation: list[dict] | None = None,
    form: str = "answers",
) -> Path:
    """The folder of a variant of `rows` (ten by default), its tables beside it."""
    declared = FORMS[form]
    train = table_of([example(n) for n in range(10)] if rows is None else rows, declared)
    held = table_of(
        [example(n) for n in range(100, 103)] if validation is None else validation, declared
    )
    digest = rows_digest(train)
    root = artifacts_root()
    directory = root / "variants" / f"{name}-{digest[:12]}"
    directory.mkdir(parents=True, exist_ok=True)
    write_table(train, declared, directory / "train.parquet")
    write_table(held, declared, directory / "validation.parquet")
    manifest = Manifest(
        name=name,
        digest=digest,
        title="Ten small questions",
        recipe={"title": "Ten small questions", "keep": {"languages": ["en"]}},
        sources=[],
        tables=TABLES,
        held_out=0.1,
        funnel={"threads": train.num_rows, "kept": train.num_rows},
        validation_funnel={"threads": held.num_rows, "kept": held.num_rows},
        splits={"train": _count(train), "validation": _count(held)},
        notes={},
        word_counter=WORD_COUNTER,
        form=form,
    )
    write_json(manifest, directory / "manifest.json")
    write_json(Pointer(build=directory.name), root / "variants" / f"{name}.json")
    write_tables()
    return directory


def write_tables(roots: int = 6) -> Path:
    """The held-out prompts that the variant's tables hold: half validation, half test."""
    rows = [
        {
            "prompt_id": f"h{n}",
            "tree_id": f"h{n}",
            "split": "validation" if n % 2 else "test",
            "lang": "en",
            "is_root": True,
            "turns": 1,
            "history": [],
            "question": QUESTIONS[n % len(QUESTIONS)],
            "replies": [
                {
                    "reply_id": f"r{n}",
                    "text": ANSWERS[n % len(ANSWERS)],
                    "rank": 0,
                    "words": count_words(ANSWERS[n % len(ANSWERS)]),
                }
            ],
        }
        for n in range(roots)
    ]
    directory = artifacts_root() / "tables" / TABLES[:12]
    directory.mkdir(parents=True, exist_ok=True)
    write_table(table_of(rows, HELDOUT), HELDOUT, directory / "heldout.parquet")
    sources = Sources(
        digest=TABLES,
        files=[],
        held_out=0.1,
        trees=roots,
        messages=2 * roots,
        threads=roots,
        trees_by_split={"train": 0, "validation": roots // 2, "test": roots - roots // 2},
        prompts_by_split={"validation": roots // 2, "test": roots - roots // 2},
        word_counter=WORD_COUNTER,
    )
    write_json(sources, directory / "source.json")
    return directory


def adapter_tensors(run: Path) -> dict:
    """The adapter's tensors by name."""
    from safetensors.torch import load_file

    return load_file(run / "adapter" / "adapter_model.safetensors")


def _count(table) -> SplitCount:
    column = "reply_words" if "reply_words" in table.column_names else "chosen_words"
    words = table[column].to_pylist()
    return SplitCount(
        rows=table.num_rows,
        words=sum(words),
        concise=sum(n <= CONCISE_WORDS for n in words),
        limits_stated=sum(limit is not None for limit in table["limit"].to_pylist()),
    )


def _saved(kind, config, tokenizer, out: Path) -> Path:
    import torch

    torch.manual_seed(0)
    model = kind(config)
    # Larger than the default initialisation, so that a change of the weights shows in bf16 logits.
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.1)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out
