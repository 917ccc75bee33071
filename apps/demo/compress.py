"""The Compress tab: a recording, its bitrate on a slider, and both sounds and spectrograms side by side."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ...data.audio import AudioReader, read_audio, write_audio
from ...errors import InputError, UsageError
from ..console import size
from .feedback import guarded
from .parts import drawn, html_line, note, picture, player, recording_input, sample_voices, tiles
from .pictures import draw
from .workspace import Workspace

if TYPE_CHECKING:
    from ...codec import Codec

LONGEST = 600.0  # seconds: a page is for trying; longer recordings are for the command line
Progress = Callable[[float, str], None]  # share done, what is being done


@dataclass(frozen=True)
class Encoded:
    """A recording at the highest bitrate, out of which all others are cut.

    data: a `.myna` file.   source_bytes: size of the upload.   elapsed: seconds it took.
    """

    data: bytes
    name: str
    source: Path
    source_bytes: int
    seconds: float
    sample_rate: int
    channels: int
    elapsed: float


@lru_cache(maxsize=1)
def house_codec() -> Codec:
    from ...codec.registry import load_codec

    return load_codec()


def encode(source: Path, progress: Progress) -> Encoded:
    """Raises InputError for what is not audio, or too long."""
    from ...codec.pipeline import FILE_PACKET_SECONDS, compress, says_synthetic

    with AudioReader(source) as reader:
        info = reader.info
        if info.n_frames and info.n_frames > LONGEST * info.sample_rate:
            raise InputError(
                f"{source.name} lasts {info.n_frames / info.sample_rate / 60:.0f} minutes; the page takes "
                f"{LONGEST / 60:.0f}, `myna compress` on the command line takes any length"
            )
        progress(0, "Loading the codec")
        codec, out = house_codec(), io.BytesIO()

        def tell(done: float, total: float | None) -> None:
            progress(0.6 * min(1.0, done / total) if total else 0.3, "Encoding")

        synthetic = says_synthetic(source, reader)
        made = compress(reader, out, codec, codec.n_codebooks, tell, FILE_PACKET_SECONDS, synthetic)
    return Encoded(
        out.getvalue(),
        source.stem or "recording",
        source,
        source.stat().st_size,
        made.seconds,
        made.sample_rate,
        made.channels,
        made.elapsed,
    )


def at_bitrate(
    encoded: Encoded, kbps: float, workspace: Workspace, progress: Progress
) -> tuple[Path, Path, float]:
    """The `.myna` file at most `kbps` before entropy coding, the WAV decoded from it, seconds to decode it."""
    from ...codec.api import decompress
    from ...codec.formats import cut

    codec = house_codec()
    n_codebooks = codec.codebooks_for(kbps * 1000)
    compressed = workspace.new(f"{encoded.name}.myna")
    with open(compressed, "wb+") as file:
        if n_codebooks == codec.n_codebooks:
            file.write(encoded.data)
        else:
            source: BinaryIO = io.BytesIO(encoded.data)
            cut(source, file, n_codebooks)
    progress(0.65, "Decoding")
    began = time.perf_counter()
    audio = decompress(compressed, codec)
    elapsed = time.perf_counter() - began
    decoded = workspace.new(f"{encoded.name}-{kbps:g}kbps.wav")
    write_audio(decoded, audio.samples, audio.sample_rate)
    return compressed, decoded, elapsed


def describe(encoded: Encoded, n_bytes: int, decoding: float) -> str:
    """Tiles with the numbers, as HTML."""
    kbps = 8 * n_bytes / encoded.seconds / 1000
    pcm = 2 * encoded.channels * encoded.sample_rate * encoded.seconds
    numbers = [
        (size(n_bytes), f"for {encoded.seconds:.1f} s"),
        (f"{kbps:.2f} kbps", "in the file"),
        (
            f"{encoded.source_bytes / n_bytes:.0f} times",
            f"smaller than the upload, {size(encoded.source_bytes)}",
        ),
        (f"{pcm / n_bytes:.0f} times", f"smaller than 16-bit WAV, {size(int(pcm))}"),
        (f"{kbps * 0.45:.2f} MB", "for an hour"),
        (
            f"{_speed(encoded.seconds, encoded.elapsed)} / {_speed(encoded.seconds, decoding)}",
            "real time, both ways",
        ),
    ]
    return tiles(numbers)


def _speed(seconds: float, elapsed: float) -> str:
    return f"{seconds / max(elapsed, 1e-6):.0f}x"


def build(workspace: Workspace, concurrency: dict[str, Any]) -> None:
    """Put the tab's parts into the Blocks that are being built."""
    import gradio as gr

    state = gr.State(None)  # of this visitor alone: the recording encoded last
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            recording = recording_input("A recording", "compress")
            sample_voices("compress", [recording])
            bitrate = gr.Slider(
                0.5,
                5,
                value=5,
                step=0.5,
                label="Bitrate",
                info="kbps before entropy coding; lower ones are cut out of the same file",
                buttons=[],
                elem_id="compress-bitrate",
            )
            button = gr.Button("Compress", variant="primary", elem_id="compress-button")
            download = gr.DownloadButton(
                "Download the .myna file", interactive=False, elem_id="compress-download"
            )
        with gr.Column(scale=8, min_width=300):
            facts = html_line(
                "compress-facts", note("Choose a recording, compress it, move the slider, listen to both.")
            )
            with gr.Row():
                with gr.Column(min_width=280):
                    original = player("Original", "compress-original", visible=False)
                    before = picture("Original", "compress-before")
                with gr.Column(min_width=280):
                    decoded = player("Decoded", "compress-decoded", visible=False)
                    after = picture("Decoded", "compress-after")

    def show(encoded: Encoded, kbps: float, progress: Progress) -> list[Any]:
        """Values for `shown`."""
        file, wav, elapsed = at_bitrate(encoded, kbps, workspace, progress)
        progress(0.9, "Drawing")
        audio = read_audio(wav, mono=True)
        image = draw(audio.samples[0], audio.sample_rate, f"Decoded from {kbps:g} kbps")
        return [
            describe(encoded, file.stat().st_size, elapsed),
            gr.DownloadButton(value=str(file), interactive=True),
            gr.Audio(value=str(wav), visible=True),
            drawn(image),
        ]

    def compress(path: str | None, kbps: float, progress: Any = gr.Progress()) -> list[Any]:
        if not path:
            raise UsageError("there is no recording yet; upload one, record one, or click an example")
        encoded = encode(Path(path), progress)
        audio = read_audio(path, mono=True)
        image = draw(audio.samples[0], audio.sample_rate, "Original")
        return [encoded, gr.Audio(value=path, visible=True), drawn(image), *show(encoded, kbps, progress)]

    def change(encoded: Encoded | None, kbps: float, progress: Any = gr.Progress()) -> list[Any]:
        if encoded is None:  # the slider moved before anything was compressed
            return [gr.skip()] * 4
        return show(encoded, kbps, progress)

    shown: list[Any] = [facts, download, decoded, after]
    button.click(
        guarded(compress),
        [recording, bitrate],
        [state, original, before, *shown],
        show_progress_on=[facts],
        api_name="compress",
        **concurrency,
    )
    bitrate.change(
        guarded(change),
        [state, bitrate],
        shown,
        show_progress_on=[facts],
        trigger_mode="always_last",  # while the slider moves, only where it comes to rest counts
        api_visibility="private",
        **concurrency,
    )
