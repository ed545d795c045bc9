"""Fuzzing as a program: `python -m tests.fuzz --minutes 1 --seed 0 [--target NAME]`; see docs/robustness.md."""
