"""The AR of VALL-E: phones and a voice to speech tokens, with what it is made of."""
