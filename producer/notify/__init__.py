"""Tells whoever asked for it that a job has ended: one signed POST, as Standard Webhooks has it.

`outbox` writes it down in the transaction that ends the job; `sender` sends what stands there, in a
thread of the leading dispatcher's.
"""
