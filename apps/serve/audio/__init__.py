"""Audio at the server's doors: uploads are decoded in processes of their own, speech is encoded as it is made."""
