"""`myna models`: the models known by name, where they come from and where they are."""

from __future__ import annotations

import typer

from .console import Console, size

app = typer.Typer(help="List, fetch and convert models.", no_args_is_help=True)


@app.command("list")
def list_command(json: bool = typer.Option(False, "--json", help="Print the list as JSON.")) -> None:
    """All models known by name, and which of them are on this machine."""
    from ..codec.registry import list_models, model_path

    rows = [
        {
            "name": entry.name,
            "kind": entry.kind,
            "installed": model_path(entry.name).is_file(),
            "description": entry.description,
            "license": entry.license,
            "url": entry.url,
            "sha256": entry.sha256,
            "path": str(model_path(entry.name)),
        }
        for entry in list_models()
    ]
    width = max(len(row["name"]) for row in rows)
    lines = [
        f"{row['name']:<{width}}  {'installed' if row['installed'] else '-':<9}  {row['description']}"
        for row in rows
    ]
    Console(json=json).result(rows, "\n".join(lines))


@app.command("download")
def download_command(
    name: str = typer.Argument(..., help="A name of `myna models list`."),
    force: bool = typer.Option(False, "--force", "-f", help="Fetch it again."),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress, no result line."),
) -> None:
    """Fetch the official weights of a model into the cache, and check them."""
    from ..codec.registry import download

    console = Console(quiet, json)
    with console.transfer(f"downloading {name}") as progress:
        path = download(name, progress, force)
    facts = {"name": name, "path": str(path), "bytes": path.stat().st_size}
    console.result(facts, f"{path} ({size(path.stat().st_size)})")


@app.command("path")
def path_command(
    name: str | None = typer.Argument(
        None, help="A name of `myna models list`; none for the folder of the cache."
    ),
) -> None:
    """Where a model is, or would be after a download."""
    from ..codec.registry import cache_dir, model_path

    typer.echo(str(model_path(name) if name else cache_dir()))


@app.command("convert")
def convert_command(
    source: str = typer.Argument(
        ..., metavar="IN", help="A name, or an EnCodec .th, DAC .pth or safetensors file."
    ),
    output: str = typer.Argument(..., metavar="OUT", help="A .safetensors file, its configuration inside."),
    force: bool = typer.Option(False, "--force", "-f", help="Overwrite the output."),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No result line."),
) -> None:
    """Write any model that can be loaded as one safetensors file of ours."""
    from ..codec.registry import convert

    model = convert(source, output, force)
    name = getattr(model, "name", type(model).__name__)
    Console(quiet, json).result({"input": source, "output": output, "model": name}, f"{output}: {name}")
