"""Notifies clients that a job has ended: one signed POST, as in Standard Webhooks.

`outbox` records the notification in the transaction that ends the job. `sender` sends it, in a
thread of the leading dispatcher.
"""
