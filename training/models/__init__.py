"""One trainer and one recipe for each kind of model, with their losses."""
