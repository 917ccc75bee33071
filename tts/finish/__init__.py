"""What is done to the sound of every sentence: level, pauses, tempo."""
