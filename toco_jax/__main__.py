"""The command `toco`, also as `python -m toco_jax`."""

from toco_jax.cli import commands


def main() -> None:
    """Runs this process's command line."""
    commands.start()


if __name__ == "__main__":
    main()
