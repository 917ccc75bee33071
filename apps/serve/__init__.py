"""`myna serve`: one server that speaks, transcribes and keeps voices, for OpenAI's clients, Home Assistant and browsers."""
