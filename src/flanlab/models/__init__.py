"""Models: loading them, scoring options, generating answers."""

import os

# oneDNN, which computes in bfloat16 on a CPU, keeps the last 1,024 programs that it made, each for matrices of one size. Packed
# texts have new lengths in each batch, so few are used again, and for Gemma 3 270M they take 3 GB. It reads this at its first
# product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
