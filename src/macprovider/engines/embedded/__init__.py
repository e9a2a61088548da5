"""The engine inside the server's own process: any decoder model of transformers."""
