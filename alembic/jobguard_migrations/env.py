"""Runs on the connection the caller holds: no URL, no second pool, no logging set-up of its own.

The caller's transaction holds the whole upgrade, so a node that is killed in the middle finds its old schema
at the next start.
"""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=context.config.attributes.get("metadata"),
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
