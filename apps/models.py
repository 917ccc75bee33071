"""`myna models`: the models known by name, where they come from and where they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .console import Console, size

if TYPE_CHECKING:
    from types import ModuleType

    from ..data.download import ModelEntry

WEIGHTS = (".bin", ".pt", ".pth", ".safetensors", ".th")

app = typer.Typer(help="List, fetch and convert models.", no_args_is_help=True)


def registry_of(name: str) -> ModuleType:
    """The registry that knows a name: of the codecs, the Whispers, TorToise. Raises UsageError naming what all know."""
    from ..asr.model import registry as whispers
    from ..codec import registry as codecs
    from ..errors import UsageError, did_you_mean
    from ..tts.tortoise import registry as tortoise

    for registry in (whispers, tortoise):
        if registry.is_known(name):
            return registry
    if any(entry.name == name for entry in codecs.list_models()):
        return codecs
    entries = (*codecs.list_models(), *whispers.list_models(), *tortoise.list_models())
    names = [*(entry.name for entry in entries), *whispers.ALIASES]
    raise UsageError(f"no model named {name!r}: {did_you_mean(name, names)}choose one of {', '.join(names)}")


@app.command("list")
def list_command(json: bool = typer.Option(False, "--json", help="Print the list as JSON.")) -> None:
    """All models known by name, which of them are on this machine, and in what precision they run here."""
    from ..asr.model import registry as whispers
    from ..codec import registry as codecs
    from ..kernels.precision import chosen_here, processor
    from ..tts.tortoise import registry as tortoise

    here = chosen_here()
    paths = [(entry, codecs.model_path(entry.name)) for entry in codecs.list_models()]
    paths += [(entry, whispers.model_path(entry.name)) for entry in whispers.list_models()]
    paths += [(entry, tortoise.model_path(entry.name)) for entry in tortoise.list_models()]
    rows = [
        {
            "name": entry.name,
            "kind": entry.kind,
            "installed": tortoise.is_installed(entry.name) if entry.kind == "tts" else path.exists(),
            "description": entry.description,
            "license": entry.license,
            "url": entry.url,
            "sha256": entry.sha256,
            "path": str(path),
            "precision": _precision(entry, here),
        }
        for entry, path in paths
    ]
    width = max(len(row["name"]) for row in rows)
    lines = [
        f"{row['name']:<{width}}  {'installed' if row['installed'] else '-':<9}  {row['description']}"
        for row in rows
    ]
    chosen = ", ".join(f"{work} {precision}" for work, precision in here.items())
    lines += ["", f"processor: {processor()}", f"--precision auto: {chosen}"]
    Console(json=json).result(rows, "\n".join(lines))


def _precision(entry: ModelEntry, here: Mapping[str, str]) -> dict[str, str]:
    """What --precision auto stands for on this machine, by part of a model."""
    if entry.kind == "codec":
        return {part: here[f"codec {part}"] for part in ("encoder", "decoder")}
    if entry.kind == "asr":
        large = "medium" in entry.name or "large" in entry.name  # those that take a gigabyte
        return {"matrices": here["large whisper" if large else "whisper"]}
    return {"autoregressive": "half"} if entry.kind == "tts" else {"lstm": "float32"}


@app.command("download")
def download_command(
    name: str = typer.Argument(..., help="A name of `myna models list`."),
    force: bool = typer.Option(False, "--force", "-f", help="Fetch it again."),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress, no result line."),
) -> None:
    """Fetch the official weights of a model into the cache, and check them where a checksum is published."""
    registry = registry_of(name)
    entry = registry.find_model(name)
    console = Console(quiet, json)
    with console.transfer(f"downloading {name}") as progress:
        path = registry.download(name, progress, force)
    n_bytes = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
    checked = entry.url is None or entry.sha256 is not None or entry.kind == "tts"  # each of its files is
    facts = {"name": name, "path": str(path), "bytes": n_bytes, "sha256": entry.sha256}
    unchecked = "" if checked else "; not checked, its publisher states no checksum"
    console.result(facts, f"{path} ({size(n_bytes)}{unchecked})")


@app.command("path")
def path_command(
    name: str | None = typer.Argument(
        None, help="A name of `myna models list`; none for the folder of the cache."
    ),
) -> None:
    """Where a model is, or would be after a download."""
    from ..data.download import cache_dir

    typer.echo(str(registry_of(name).model_path(name) if name else cache_dir()))


@app.command("convert")
def convert_command(
    source: str = typer.Argument(
        ...,
        metavar="IN",
        help="A name, or a checkpoint: EnCodec .th, DAC .pth, Whisper .pt, a folder of faster-whisper, safetensors; "
        "a folder of TorToise's files.",
    ),
    output: str = typer.Argument(
        ...,
        metavar="OUT",
        help="A .safetensors file, its configuration inside; for TorToise a folder of them.",
    ),
    int8: bool = typer.Option(False, "--int8", help="myna-24k and its kin: most weights in 8 bits."),
    force: bool = typer.Option(False, "--force", "-f", help="Overwrite the output."),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No result line."),
) -> None:
    """Write any model that can be loaded as one safetensors file of ours."""
    from ..asr.model import registry as whispers
    from ..codec import registry as codecs
    from ..data.files import check_output
    from ..errors import MissingModelError, UsageError
    from ..tts.tortoise import registry as tortoise

    if not tortoise.is_known(source) and not tortoise.is_tortoise(source):  # which may be written to a folder
        check_output(output, force)
    if tortoise.is_tortoise(source):
        registry = tortoise
    elif Path(source).exists():
        registry = whispers if whispers.is_whisper(source) else codecs
    elif whispers.is_repository(source):
        registry = whispers
    elif Path(source).suffix in WEIGHTS or len(Path(source).parts) > 1:
        raise MissingModelError(f"no model at {source}; give a checkpoint, or a name of `myna models list`")
    else:
        registry = registry_of(source)
    if int8 and registry is not codecs:
        raise UsageError(f"--int8 is for codecs of myna's kind, and {source} is none; leave it out")
    model = codecs.convert(source, output, force, int8) if int8 else registry.convert(source, output, force)
    name = getattr(model, "name", type(model).__name__)
    Console(quiet, json).result({"input": source, "output": output, "model": name}, f"{output}: {name}")
