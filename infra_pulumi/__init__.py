"""Saldo's deployment as a Pulumi program: read __main__.py first, it is the inventory."""
