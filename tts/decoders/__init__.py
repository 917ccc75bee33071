"""From what the AR says to sound: the decoders, each chosen by its name."""
