"""Run the program as `python -m hjepa_eval`, which `torchrun -m` needs."""

from hjepa_eval.cli import main

if __name__ == "__main__":
    main()
