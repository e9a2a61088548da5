"""Engines that are servers of their own: llama-server, vLLM, mlx-lm. We start each as a child and talk to it over loopback HTTP."""
