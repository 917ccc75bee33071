"""`myna serve`: one server that speaks, transcribes and keeps voices, for the clients of OpenAI and Home Assistant."""
