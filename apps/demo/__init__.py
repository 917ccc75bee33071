"""The demo page: clone a voice, compress a recording, keep voices. Gradio is imported when a page is built."""
