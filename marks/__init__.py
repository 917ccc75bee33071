"""What says that speech is synthetic: an inaudible watermark in the sound, and a tag of the file."""
