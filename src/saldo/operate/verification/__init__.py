"""What ``saldo verify`` compares: docs/how-to/verify.md says what each column's change triggers."""
