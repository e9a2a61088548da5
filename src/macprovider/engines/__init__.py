"""What computes the answers: one small interface (`base`), one module or folder for each engine behind it."""
