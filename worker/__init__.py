"""The worker: it takes messages about chunks, and writes a row for each image to SQL.

`main` builds the parts and runs them. An image's way is `chunk` (claim) → `pool` → `loader` (fetch,
decode) → `batch` (classify) → `chunk` (store).
"""
