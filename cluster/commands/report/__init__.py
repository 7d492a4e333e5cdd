"""``launch.py report``: runs compared on one page, from their folders alone."""
