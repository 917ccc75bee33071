"""Codes to bytes and back: `.myna`, EnCodec's `.ecdc`, DAC's `.dac`.

Reading, any format, from a file or a pipe:

>>> with open("speech.myna", "rb") as file:
...     compressed = open_compressed(file)
...     codec = load_codec(compressed.info.model)
...     for packet in compressed.packets():     # packet.codes: (S, K, T), as soon as they have arrived
...         ...
...     for damage in compressed.damage: print(damage)

Writing `.myna`, to a file or a pipe:

>>> writer = MynaWriter(file, header_for(codec, n_codebooks=8, original_sample_rate=44100, channels=2))
>>> writer.push(codes)                          # (S, K, t), any t: a packet leaves as soon as it is full
>>> writer.close(n_samples)                     # exact length at the original rate

A lower bitrate or a stretch of time out of a file, without decoding: `cut(source, destination, n_codebooks=4)`.
"""
