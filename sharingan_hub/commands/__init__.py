"""The commands of `sharingan` that take more than a few lines; cli.py adds them."""
