"""The documents behind the protocol that chat clients speak: OpenAI's chat completions, on the page's own port."""
