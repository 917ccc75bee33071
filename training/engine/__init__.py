"""What every trainer shares: the loop, exact resume, torchrun, EMA, schedules, logging, recipes."""
