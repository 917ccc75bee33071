"""From a folder of recordings to a training corpus: `myna prepare`.

readers -> decode -> split -> transcribe -> check -> loudness, quality, speakers, phonemes     (units, in workers)
        -> duplicates, speakers, splits -> shards, manifest, report                            (once, over everything)
"""
