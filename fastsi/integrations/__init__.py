"""Faces towards other trainers and tools; each lives in a module of its own."""
