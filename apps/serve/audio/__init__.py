"""Audio at the server's doors: what comes in is decoded by a process of its own, what goes out is encoded as it is made."""
