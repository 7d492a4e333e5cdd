"""What is measured of a run and how it is shown: console, log files, TensorBoard."""
