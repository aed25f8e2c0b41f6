"""``python -m helpers`` is the command ``how-sure``."""

from .own_data.cli import main

if __name__ == "__main__":
    main()
