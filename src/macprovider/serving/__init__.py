"""The HTTP surface: OpenAI's interface over one engine."""
