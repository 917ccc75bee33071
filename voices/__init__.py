"""Recordings of the voices that ship; `voices.json` says what they are and what they say."""
