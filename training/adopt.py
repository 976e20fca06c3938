"""Take in a model made elsewhere: copied as it is, shown to load, measured by the canary, sealed like a stage's own."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from training.canary import write_canary
from training.checkpoint import OutputDirectory, prepare_process
from training.config import AdoptConfig, ConfigError
from training.models import check_plain_head, load_causal, load_tokenizer, model_directory, render_prompt, resolve_dtype
from training.records import Message

# Weights in forms that are not taken (a pickle runs code when it is read), and code.
LEFT_BEHIND = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".onnx", ".gguf", ".py")


def check_source(path: str) -> Path:
    """Return where a model's files are, after a look at what needs no loading.

    Raises:
        ConfigError: says what is missing.
    """
    source = Path(model_directory(path))
    if not source.is_dir():
        raise ConfigError(f"model: {path}: is no directory")
    if not (source / "config.json").is_file():
        adapter = (source / "adapter_config.json").is_file()
        why = "holds an adapter alone: merge it into its model first" if adapter else "holds no config.json"
        raise ConfigError(f"model: {path}: {why}")
    weights = sorted(source.glob("*.safetensors"))
    if not weights:
        raise ConfigError(f"model: {path}: holds no safetensors; weights in other forms are not taken")
    for file in weights:
        try:
            with safe_open(file, framework="pt"):  # compares the header with the file's length
                pass
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"model: {file}: is no whole safetensors file: {error}") from error
    return source


def copy_files(source: Path, target: Path) -> None:
    """Copy a model's own files, byte for byte; a link's content is copied, for what it points to may change."""
    shutil.rmtree(target, ignore_errors=True)  # begun by a run that was stopped
    target.mkdir(parents=True)
    for path in _files(source):
        shutil.copyfile(path, target / path.name)


def _files(source: Path) -> Iterator[Path]:
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.suffix not in LEFT_BEHIND:
            yield path


def run(config: AdoptConfig, output: OutputDirectory) -> None:
    """Leave the model in output/model, with canary.json and manifest; an adapter/ beside the model comes along.

    Raises:
        ConfigError: what stands there is no language model that can be served and judged here.
    """
    prepare_process(config)
    source = check_source(config.model)
    copy_files(source, output.path / "model")
    if (adapter := source.parent / "adapter") != source and source.name == "model" and adapter.is_dir():
        copy_files(adapter, output.path / "adapter")
    copied = str(output.path)
    model, tokenizer = load_causal(copied, resolve_dtype(config.dtype)), load_tokenizer(copied)
    check_plain_head(model)
    render_prompt(tokenizer, [Message(role="user", content="Hello")])  # without a chat template nobody can ask it
    metrics = {"n/parameters": float(sum(parameter.numel() for parameter in model.parameters()))}
    del model
    output.log({"update": 1, "updates": 2})
    write_canary(output.path)
    output.log({"update": 2, "updates": 2, **metrics})
    output.finish(metrics, data=[], parents=[config.model, *config.parents])
