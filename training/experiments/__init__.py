"""Published claims, each reproduced by one command that writes a figure and a table."""
