"""`python -m detrkit` is `detrkit`; also what `torchrun -m detrkit train …` starts."""

from detrkit.cli.app import entry

if __name__ == "__main__":
    entry()
