"""Text and a voice to speech: VALL-E (AR and NAR codec language models) and what it needs."""
