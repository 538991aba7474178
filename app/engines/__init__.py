"""Language-model engines, each a LlamaIndex `LLM`."""
