"""`python -m kljax`, which is the console command `kljax`."""

from kljax.commands import main

if __name__ == "__main__":
    main()
