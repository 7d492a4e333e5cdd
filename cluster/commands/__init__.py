"""The commands of ``launch.py``, a module each."""
