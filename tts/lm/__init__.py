"""The AR of VALL-E: phones and a prompt to speech tokens."""
