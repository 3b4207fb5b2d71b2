"""The registry actor and what it keeps: who there is, who may come, templates, the pool, transfer, recovery."""
