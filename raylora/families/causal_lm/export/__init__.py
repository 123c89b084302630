"""The adapter of a language model as a folder for PEFT, vLLM, llama.cpp and Ollama."""
