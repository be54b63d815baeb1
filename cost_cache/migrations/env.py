"""How Alembic runs a script here:

on the connection it is given, inside that connection's transaction.
"""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
