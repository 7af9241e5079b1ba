"""What classifies: a message about a chunk comes in, and a row for each image goes to SQL.

`main` builds the parts and runs them. An image's way is `chunk` (claim) → `pool` → `loader` (fetch,
decode) → `batch` (classify) → `chunk` (store).
"""
