"""Which of several tries at a sentence is heard: scorers, and how they are weighed."""
