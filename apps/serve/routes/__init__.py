"""The addresses of the server, a file an area."""
