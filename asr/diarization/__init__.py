"""Who speaks when: voices of short windows, in groups, as turns; words and segments by the turns they lie in."""
